"""The run directory: where everything about one run lies."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torchvision

import mtdiff_core
from mtdiff_core.errors import UserError
from mtdiff_core.files import explained, write_atomically
from mtdiff_core.numbering import make_next_number, numbers_in
from mtdiff_core.recipe.loading import load_recipe

if TYPE_CHECKING:
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry

RECIPE = "recipe.toml"


@attrs.frozen
class RunDirectory:
    """Paths inside a run directory.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def averages(self) -> Path:
        """Folder of the averages that others are made of."""
        return self.path / "averages"

    @property
    def samples(self) -> Path:
        """Folder of samples."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """One JSON object for each logged step."""
        return self.path / "metrics.jsonl"


def create_run_directory(
    recipe: Recipe, out: Path | None, registry: Registry, device: torch.device, processes: int = 1
) -> RunDirectory:
    """Make a new run directory, with the resolved recipe and the environment in it.

    Args:
        recipe: What will be run.
        out: Where; by default the next free number under ``runs/<recipe>/``.
        registry: The plugins that are recorded.
        device: The device that is recorded.
        processes: How many share the run; recorded.

    Raises:
        UserError: ``out`` holds something already, or cannot be written.
    """
    check_is_free(out)
    with explained("cannot make the run directory", out or Path("runs") / recipe.name):
        out = out or make_next_number(Path("runs") / recipe.name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "checkpoints").mkdir()
        (out / "samples").mkdir()
    write_atomically(
        out / RECIPE,
        f"# Every default written out: mtdiff run on this file repeats the run.\n{recipe.to_toml()}",
    )
    about = environment(recipe.seed, registry, device, processes)
    write_atomically(out / "environment.json", json.dumps(about, indent=1))
    return RunDirectory(out)


def check_is_free(out: Path | None) -> None:
    """Raise ``UserError`` if something lies where a new run is to go."""
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty directory", str(out), "choose another --out, or add --resume to go on with it")


def find_run_directory(recipe: Recipe, out: Path | None, registry: Registry) -> RunDirectory:
    """The run to go on with: ``out``, or the newest under ``runs/<recipe>/``.

    Raises:
        UserError: There is none, or it is a run of another recipe.
    """
    if out is None:
        numbers = numbers_in(Path("runs") / recipe.name)
        if not numbers:
            raise UserError(
                "there is no run to resume",
                str(Path("runs") / recipe.name),
                "leave --resume out, or say where with --out",
            )
        out = Path("runs") / recipe.name / str(numbers[-1])
    run = open_run_directory(out)
    # Read as a recipe, so that an option which is newer than the run counts with its default.
    changed = _differences(load_recipe(run.recipe, registry).to_tables(lasting=True), recipe.to_tables(lasting=True))
    if changed:
        raise UserError(
            f"this run has another recipe; different: {', '.join(changed)}",
            str(run.path),
            f"to go on with it: mtdiff run {run.recipe} --resume --out {run.path}",
        )
    return run


def open_run_directory(path: Path) -> RunDirectory:
    """An existing run directory.

    Raises:
        UserError: This is none.
    """
    run = RunDirectory(path)
    if not run.recipe.is_file():
        raise UserError(f"is no run directory: it has no {RECIPE}", str(path), "expected such as runs/image+label/1")
    return run


def keep_metrics_up_to(run: RunDirectory, step: int) -> None:
    """Drop logged lines after a step, so that a resumed run logs no step twice."""
    if run.metrics.exists():
        lines = run.metrics.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_atomically(run.metrics, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Key paths whose values differ."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{path}{key}.")
        elif old != new:
            found.append(f"{path}{key}")
    return found


def environment(seed: int, registry: Registry, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a run, or whatever else is measured, ran on, as JSON data."""
    return {
        "command": sys.argv,
        "seed": seed,
        "versions": {
            "mtdiff": mtdiff_core.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "plugins": [
            {"name": plugin.name, "distribution": plugin.distribution, "error": plugin.reason or None}
            for plugin in registry.plugins
        ],
        "hardware": {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes,
        },
    }
