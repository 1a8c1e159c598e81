"""mtdiff evaluate: how good a trained run is, in every direction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mtdiff_core.cli.console import (
    Display,
    checkpoint_option,
    choose_device,
    compile_option,
    device_option,
    ema_option,
    errors,
    load_registry,
    output,
    prepare_process,
)
from mtdiff_core.directions import parse_direction
from mtdiff_core.errors import UserError
from mtdiff_core.files import explained
from mtdiff_core.interfaces.component import evolved
from mtdiff_core.recipe.metrics import build_metrics
from mtdiff_core.recipe.sections import SAMPLERS

if TYPE_CHECKING:
    from mtdiff_core.directions import Direction
    from mtdiff_core.evaluation.evaluation import Evaluation
    from mtdiff_core.recipe.recipe import Recipe


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Which metrics.  [default: all but costly ones]"
)
@click.option("--set", "overrides", multiple=True, metavar="METRIC.KEY=VALUE", help="Set an option of a metric.")
@click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="TEXT",
    help="Such as 'label -> image'.  [default: the recipe's]",
)
@click.option(
    "--num",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Samples in each direction; of given values, as many as the test data has at most.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Sampling steps.  [default: the recipe's]")
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the recipe's]")
@click.option(
    "--fewer-steps",
    default="5,15",
    show_default=True,
    metavar="N,N,...",
    help="Also judge the first direction in so many steps; '' for none.",
)
@click.option("--bound/--no-bound", default=True, show_default=True, help="Compute the bound of the likelihood.")
@click.option(
    "--bound-steps", type=click.IntRange(min=3), default=1000, show_default=True, help="Steps of the bound's chain."
)
@click.option(
    "--bound-calls",
    type=click.IntRange(min=2),
    default=24,
    show_default=True,
    help="How many of them are computed for each sample, drawn at random.",
)
@click.option(
    "--bound-num",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Test samples that the bound is computed for.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the samples.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for evaluation.json.  [default: RUN; with --checkpoint or --ema, RUN/evaluation-STEP-ema-SIGMA_REL]",
)
@checkpoint_option
@ema_option
@compile_option
@device_option
def evaluate(
    run: Path,
    metrics: tuple[str, ...],
    overrides: tuple[str, ...],
    directions: tuple[str, ...],
    num: int,
    steps: int | None,
    sampler: str | None,
    fewer_steps: str,
    bound: bool,
    bound_steps: int,
    bound_calls: int,
    bound_num: int,
    seed: int,
    out: Path | None,
    checkpoint: int | None,
    ema: float | None,
    compile: bool | None,  # noqa: A002 - the option's name
    device: str,
) -> None:
    """Judge RUN, a run directory: every metric in every direction, and the bound of the likelihood.

    \b
    Examples:
      mtdiff evaluate runs/image+label/1
      mtdiff evaluate runs/image+label/1 --metric accuracy --direction 'image -> label'
      mtdiff evaluate runs/image+label/1 --metric train_on_synthetic --num 1500
    """  # noqa: D301 - click's own mark for lines to keep as they are
    registry = load_registry()
    chosen = build_metrics(metrics, overrides, registry)
    fewer = _numbers(fewer_steps)
    prepare_process()

    from mtdiff_core.evaluation.evaluation import Evaluation, EvaluationOptions
    from mtdiff_core.generation import Settings
    from mtdiff_core.interfaces.workshop import Workshop
    from mtdiff_core.training.run import load_trained_model
    from mtdiff_core.world import joined

    folder = out or _folder(run, checkpoint, ema)
    _check_can_be_made(folder)
    where = choose_device(device)
    trained = load_trained_model(run, registry, where, checkpoint, ema)
    recipe = trained.experiment.recipe
    settings = Settings.of(recipe.sample, recipe.diffusion, seed)
    given_here = {name: value for name, value in (("steps", steps), ("sampler", sampler)) if value is not None}
    if recipe.sample.compile if compile is None else compile:
        trained.experiment.model.compile_backbone()
    options = EvaluationOptions(
        metrics=chosen,
        asked=metrics,
        directions=_directions(recipe, directions),
        num=num,
        settings=evolved(settings, **given_here),
        fewer_steps=fewer,
        bound_steps=bound_steps if bound else 0,
        bound_calls=bound_calls,
        bound_num=bound_num,
    )
    with joined(where) as world, Display(quiet=not world.is_main) as display:
        evaluation = Evaluation(trained, options, Workshop(where, recipe.seed, display.work), world)
        found = evaluation.run()
    if world.is_main:
        _write(folder, run, evaluation, found)


def _check_can_be_made(folder: Path) -> None:
    """Before hours of sampling, and without making it: what is refused later leaves no empty folder behind."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError("is a file", str(there), "--out needs a folder")
    if not os.access(there, os.W_OK):
        raise UserError("cannot be written to", str(there), "--out names another folder")


def _write(folder: Path, run: Path, evaluation: Evaluation, found: Mapping[str, Any]) -> None:
    """Files, and what a user reads at once: the figures first, whatever becomes of the page."""
    from mtdiff_core.evaluation.evaluation import write_evaluation
    from mtdiff_core.evaluation.report import write_report

    with explained("cannot make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(folder / "evaluation.json", found)
    _show(found)
    write_report(folder / "report.html", found, evaluation.shown, evaluation.modalities, run / "metrics.jsonl")
    output.print(f"{folder / 'evaluation.json'}, {folder / 'report.html'}", markup=False)


def _folder(run: Path, checkpoint: int | None, ema: float | None) -> Path:
    """Where the figures of these weights go: those of a run's own lie in the run itself."""
    step = "" if checkpoint is None else f"-{checkpoint}"
    average = "" if ema is None else f"-ema-{ema:g}"
    return run / f"evaluation{step}{average}" if step or average else run


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{text!r} are no numbers of steps", "--fewer-steps", "expected such as 5,15")
    return [int(part) for part in parts]


def _directions(recipe: Recipe, texts: Sequence[str]) -> list[Direction]:
    if not texts:
        return recipe.directions()
    found = []
    for text in texts:
        try:
            found.append(parse_direction(text, recipe.modalities))
            recipe.check_direction(found[-1])
        except UserError as error:
            raise UserError(str(error), "--direction") from error
    return found


def _show(found: Mapping[str, Any]) -> None:
    """Every figure, and the bound, direction by direction."""
    from mtdiff_core.intervals import OUTSIDE, WHY_OUTSIDE, is_outside

    bounds = {one["direction"]: one for one in found["bound"]}
    for one in found["directions"]:
        table = Table(box=None, title=one["direction"], title_justify="left", title_style="bold")
        for head in ("figure", "better", "value", "95% interval", "n"):
            table.add_column(head)
        for figure in one["figures"]:
            table.add_row(f"{figure['name']} of {' + '.join(figure['of'])}", figure["better"], *_cells(figure))
            for name, value in figure["baselines"].items():
                table.add_row(f"  {name}", "", f"{value:.4g}", style="dim")
            if figure["unit"]:
                table.add_row(f"  in {figure['unit']}", style="dim")
        if one["direction"] in bounds:
            bound = bounds[one["direction"]]
            table.add_row(
                "bound, bits per dimension", "lower", *_cells({**bound["bits_per_dimension"], "n": bound["n"]})
            )
            table.add_row("  nats in all", "", f"{bound['nats']['value']:.5g}", style="dim")
        output.print(table)
        if any(is_outside(figure["value"], figure["interval"]) for figure in one["figures"]):
            output.print(f"{OUTSIDE} {WHY_OUTSIDE}", style="dim")
        for name, reason in one["refused"].items():
            errors.print(f"no {name}: {reason}", markup=False)


def _cells(figure: Mapping[str, Any]) -> tuple[str, str, str]:
    from mtdiff_core.intervals import OUTSIDE, is_outside

    low, high = figure["interval"]
    mark = f" {OUTSIDE}" if is_outside(figure["value"], figure["interval"]) else ""
    return f"{figure['value']:.4g}", f"{low:.4g} to {high:.4g}{mark}", str(figure["n"])
