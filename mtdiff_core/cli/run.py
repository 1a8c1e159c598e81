"""mtdiff run: train a recipe and sample from it."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtdiff_core.cli.console import (
    Display,
    choose_device,
    device_option,
    load_registry,
    output,
    prepare_process,
)
from mtdiff_core.packaged import find_recipe
from mtdiff_core.recipe.loading import load_recipe

if TYPE_CHECKING:
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.training.run_directory import RunDirectory


@click.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as train.steps=500.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/<recipe>/<next number>]")
@click.option("--resume", is_flag=True, help="Go on with --out, or with the newest run of this recipe.")
@click.option("--seed", type=click.IntRange(min=0), help="Override the recipe's seed.")
@device_option
def run(recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, seed: int | None, device: str) -> None:
    """Train RECIPE, a TOML file or the name of a shipped recipe, and sample from it.

    Example: mtdiff run image+label --set train.steps=500

    On several devices: torchrun --nproc-per-node 4 -m mtdiff run RECIPE
    """
    registry = load_registry()
    seeding = () if seed is None else (f"seed={seed}",)
    loaded = load_recipe(find_recipe(recipe), registry, (*overrides, *seeding))
    prepare_process()

    from mtdiff_core.training.run import run_recipe
    from mtdiff_core.world import joined

    where = choose_device(device)
    with joined(where) as world, Display(quiet=not world.is_main) as display, registry.registered(display):
        if not world.is_main:
            logging.getLogger("mtdiff_core.training").setLevel(logging.ERROR)  # what all would say is said once
        directory = run_recipe(
            loaded, registry, where, out, resume, display.sampling, display.work, world=world, say=display.say
        )
    if world.is_main:
        _summary(loaded, directory, display.last_losses)


def _summary(recipe: Recipe, directory: RunDirectory, losses: str) -> None:
    """Where things lie, and what to try next."""
    path = shlex.quote(str(directory.path))
    lines = [
        "",
        f"done: {recipe.name}, {recipe.train.steps} steps{f', losses at the end: {losses}' if losses else ''}",
        f"  look at   {directory.samples / 'grid.png'}",
        f"  curves    tensorboard --logdir {path}",
        "try next:",
        f"  mtdiff sample {path} --num 64",
    ]
    for one in recipe.directions():
        if one.known:
            given = " ".join(f"--given {name}={recipe.modalities[name].modality.example}" for name in one.known)
            lines.append(f"  mtdiff sample {path} {given}")
    output.print("\n".join(lines), markup=False)
