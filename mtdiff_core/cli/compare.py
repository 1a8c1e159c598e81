"""mtdiff compare: recipes that differ in what they say, and in nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from mtdiff_core.cli.console import (
    Display,
    choose_device,
    device_option,
    errors,
    load_registry,
    output,
    prepare_process,
)
from mtdiff_core.errors import UserError, located
from mtdiff_core.files import explained, write_atomically
from mtdiff_core.packaged import find_recipe
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.recipe.metrics import build_metrics

if TYPE_CHECKING:
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry


# A list in a value has commas of its own.
BEFORE_KEY = re.compile(r",(?=[\w.+-]+\s*=)")


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE[,KEY=VALUE]...")
@click.option(
    "--seeds", default="0,1,2", show_default=True, metavar="N,N,...", help="Each recipe is trained with each of them."
)
@click.option(
    "--at",
    "shares",
    default="0.25,0.5,1",
    show_default=True,
    metavar="X,X,...",
    help="Shares of the training after which models are judged.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Which metrics.  [default: all but costly ones]"
)
@click.option(
    "--metric-set", "metric_overrides", multiple=True, metavar="METRIC.KEY=VALUE", help="Set an option of a metric."
)
@click.option("--num", type=click.IntRange(min=2), default=1000, show_default=True, help="Samples in each direction.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of all recipes, such as train.steps=500.",
)
@click.option(
    "--control",
    is_flag=True,
    help="Beside each recipe that derives a modality from its anchor: the same views without their loss.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder; what is finished there is not done again.  [default: comparisons/<recipes>]",
)
@device_option
def compare(
    recipes: tuple[str, ...],
    seeds: str,
    shares: str,
    metrics: tuple[str, ...],
    metric_overrides: tuple[str, ...],
    num: int,
    overrides: tuple[str, ...],
    control: bool,
    out: Path | None,
    device: str,
) -> None:
    """Train RECIPES that differ in what they say and in nothing else, and judge them on what they have in common.

    Data order, times and the anchor's noise are the same, and all start from the first one's initial weights where
    these fit by name and shape. The others are compared with the first. After an interruption the same command goes on.

    \b
    Examples:
      mtdiff compare image image+label --set train.steps=1500 --seeds 0,1,2
      mtdiff compare image+label image+label,modalities.label.curve=none
    """  # noqa: D301 - click's own mark for lines to keep as they are
    registry = load_registry()
    chosen = build_metrics(metrics, metric_overrides, registry, "--metric-set")
    loaded = _recipes(recipes, overrides, registry)
    prepare_process()

    from mtdiff_core.comparison.comparison import Comparison
    from mtdiff_core.comparison.plan import Plan, check_comparable, folder_name, with_controls
    from mtdiff_core.comparison.report import write_comparison_report
    from mtdiff_core.evaluation.evaluation import strict_json

    plan = Plan(
        recipes=with_controls(loaded, registry) if control else loaded,
        seeds=_seeds(seeds),
        shares=_shares(shares),
        metrics=chosen,
        asked=metrics,
        num=num,
        folder=out or Path("comparisons") / folder_name("-".join(loaded)),
    )
    check_comparable(plan)
    chosen_device = choose_device(device)
    with explained("cannot make the folder", plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
    with Display() as display, registry.registered(display):
        comparison = Comparison(
            plan, registry, chosen_device, display.sampling, display.work,
            lambda text: errors.print(text, style="bold", markup=False),
        )  # fmt: skip
        found = comparison.run()
    write_comparison_report(plan.folder / "comparison.html", found)
    write_atomically(plan.folder / "comparison.json", strict_json(found))
    _show(found)
    output.print(f"{plan.folder / 'comparison.json'}, {plan.folder / 'comparison.html'}", markup=False)


def _recipes(texts: tuple[str, ...], overrides: tuple[str, ...], registry: Registry) -> dict[str, Recipe]:
    """Recipes by what the user calls them."""
    found: dict[str, Recipe] = {}
    for text in texts:
        name, *own = BEFORE_KEY.split(text)
        path = find_recipe(name)
        label = ",".join([path.stem, *own])
        if label in found:  # of another folder
            label = text
        if label in found:
            raise UserError(f"{label!r} is given twice", "RECIPE", "give each once; --seeds repeats it")
        with located(text):
            if any(one.partition("=")[0].strip() == "seed" for one in (*overrides, *own)):
                raise UserError("each recipe is trained with the same seeds", "seed", "--seeds sets them")
            found[label] = load_recipe(path, registry, (*overrides, *own))
    return found


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    seeds = [int(part) for part in parts if part.isdecimal()]
    if len(set(seeds)) < len(parts):
        raise UserError(f"{text!r} are no different integers from 0", "--seeds", "expected such as 0,1,2")
    return seeds


def _shares(text: str) -> list[float]:
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"{text!r} are no numbers", "--at", "expected such as 0.25,0.5,1") from error
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f"{text!r} are no shares of the training", "--at", "expected numbers above 0, up to 1")
    return shares


def _show(found: Mapping[str, Any]) -> None:
    """Every figure of every recipe, along training, and what a step of each costs."""
    shares = [f"after {share:.0%}" for share in found["shares"]]
    for figure in found["figures"]:
        title = f"{figure['name']} of {' + '.join(figure['of'])}, {figure['direction']} ({figure['better']} is better)"
        names = Column("recipe", no_wrap=True)  # names that are cut short may be the same
        difference = f"{shares[-1]}, less {found['reference']}"
        table = Table(names, *shares, difference, box=None, title=title, title_justify="left")
        for label, values in figure["values"].items():
            pairs = figure["paired"].get(label)
            table.add_row(label, *map(_with_interval, values), _with_interval(pairs[-1]) if pairs else "")
        output.print(table)
    for reason in found["refused"]:
        errors.print(f"left out: {reason}", markup=False)
    for label, cost in found["cost"].items():
        milliseconds, ratio = 1000 * cost["seconds_per_step"]["median"], cost["ratio"]["median"]
        equal = f"{found['equal_start'][label]:.1%} of its initial weights are the first one's"
        output.print(f"{label}: {milliseconds:.1f} ms a step, x {ratio:.2f}; {equal}", markup=False)


def _with_interval(value: Mapping[str, Any]) -> str:
    if value["interval"] is None:
        return f"{value['mean']:.4g}"
    low, high = value["interval"]
    return f"{value['mean']:.4g} ({low:.3g} to {high:.3g})"
