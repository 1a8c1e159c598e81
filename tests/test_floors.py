"""The order of floors: a room imports only from lower ones, and the core knows no modality."""

import ast
import re
from pathlib import Path

import pytest

import mtdiff_core

CORE = Path(__file__).parents[1] / "mtdiff_core"
PLUGINS = CORE.parent / "plugins"

FLOORS = [
    {"allocation", "errors", "suggest", "files", "numbering", "randomness", "signals", "transfer", "world"},
    {"interfaces"},
    {"schedule", "codecs", "directions", "intervals"},
    {"diffusion", "backbones", "aggregators", "registry", "data", "builtin"},
    {"recipe", "packaged", "scaffold", "generation", "picture", "sampling_job"},
    {"assembly"},
    {"training"},
    {"evaluation", "benchmark", "testing"},
    {"comparison"},
    {"cli"},
]
# What plugins may import besides the names that mtdiff_core exports (mtdiff_core/registry/plugin_api.py).
PROMISED = {
    "mtdiff_core",
    "mtdiff_core.codecs",
    "mtdiff_core.files",
    "mtdiff_core.intervals",
    "mtdiff_core.randomness",
    "mtdiff_core.testing",
}

# It reads what `mtdiff data pack` writes: both know one format.
BESIDES = {"plugins/mtdiff_datasets/webdataset.py": {"mtdiff_core.data.shards", "mtdiff_core.data.streaming"}}
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(path):
    """Every module that a file imports, also for types and inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def core_files():
    return [path for path in sorted(CORE.rglob("*.py")) if path != CORE / "__init__.py"]


def room_of(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def test_a_room_is_missing_from_the_floors():
    assert {room_of(path) for path in core_files()} == set(FLOOR_OF)


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(CORE)))
def test_a_room_imports_from_a_higher_floor(path):
    own = FLOOR_OF[room_of(path)]
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "mtdiff_core" and len(parts) > 1:
            assert FLOOR_OF[parts[1]] <= own, f"{path.name} (floor {own}) imports {module}"


def test_the_core_imports_a_plugin():
    packages = {path.name for path in PLUGINS.iterdir() if path.is_dir()}
    assert packages
    for path in core_files():
        assert not packages & {module.split(".")[0] for module in imports(path)}, path


def plugin_files():
    return [*sorted(PLUGINS.rglob("*.py")), *sorted((CORE.parent / "templates").rglob("*.py"))]


@pytest.mark.parametrize("path", plugin_files(), ids=lambda path: str(path.relative_to(CORE.parent)))
def test_a_plugin_needs_what_the_plugin_api_does_not_promise(path):
    used = {module for module in imports(path) if module.partition(".")[0] == "mtdiff_core"}
    assert used - PROMISED == BESIDES.get(str(path.relative_to(CORE.parent)), set())


def test_a_plugin_takes_from_the_core_what_it_does_not_export():
    for path in plugin_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "mtdiff_core":
                assert {alias.name for alias in node.names} <= set(mtdiff_core._HOMES), path


def test_the_core_names_a_modality():
    names = ["label", "image", "mask", "masked_image", "segmentation", "representation", "paired_image"]
    quoted = re.compile(rf"""["']({"|".join(names)})["']""")
    for path in core_files():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not quoted.search(line), f"{path}:{number}: {line.strip()}"
