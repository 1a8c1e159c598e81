"""The order of floors: a room imports only from lower ones, and the core knows no modality."""

import ast
import re
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "mtdiff_core"
PLUGINS = CORE.parent / "plugins"

FLOORS = [
    {"errors", "suggest", "files", "randomness", "signals", "transfer", "world"},
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


def test_the_core_names_a_modality():
    names = ["label", "image", "mask", "masked_image", "segmentation", "representation", "paired_image"]
    quoted = re.compile(rf"""["']({"|".join(names)})["']""")
    for path in core_files():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not quoted.search(line), f"{path}:{number}: {line.strip()}"
