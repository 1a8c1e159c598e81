"""mtdiff sample: samples from a trained run, in any direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from mtdiff_core.cli.console import Display, choose_device, device_option, load_registry, output, quiet_libraries
from mtdiff_core.directions import direction
from mtdiff_core.errors import UserError
from mtdiff_core.files import explained
from mtdiff_core.recipe.sections import GUIDES, SAMPLERS

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.directions import Direction
    from mtdiff_core.generation import Generated
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.recipe.sections import SampleOptions

MOST_LINES = 40


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--given", multiple=True, metavar="NAME=VALUE", help="What is known, such as label=3 or image=PATH.")
@click.option(
    "--num", type=click.IntRange(min=1),
    help="Samples; for each given value, if there are several.  [default: the recipe's; 1 if the anchor is given]",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Sampling steps.  [default: the recipe's]")
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the recipe's]")
@click.option(
    "--guidance", type=click.FloatRange(min=0), help="How hard what is given pulls; 0 is none.  [default: the recipe's]"
)
@click.option("--guide", type=click.Choice(GUIDES), help="What guides.  [default: the recipe's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the samples.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: RUN/samples/<next number>]")
@device_option
def sample(
    run: Path,
    given: tuple[str, ...],
    num: int | None,
    steps: int | None,
    sampler: str | None,
    guidance: float | None,
    guide: str | None,
    seed: int,
    out: Path | None,
    device: str,
) -> None:
    r"""Sample from RUN, a run directory: everything jointly, or the rest from what is given.

    \b
    Examples:
      mtdiff sample runs/image+label/1 --num 64
      mtdiff sample runs/image+label/1 --given label=3
      mtdiff sample runs/image+label/1 --given image=photo.png
    """
    registry = load_registry()
    quiet_libraries()

    from mtdiff_core.generation import Settings, generate, save_samples
    from mtdiff_core.picture import draw_grid
    from mtdiff_core.training.run import load_trained_model

    experiment = load_trained_model(run, registry, choose_device(device)).experiment
    recipe, defaults = experiment.recipe, experiment.recipe.sample
    modalities = {name: source.modality for name, source in experiment.sources.items()}
    asked, values = _read_given(given, recipe, modalities)
    known, count = _line_up(values, num or (1 if recipe.space.anchor in asked.known else defaults.num))
    chosen = {"steps": steps, "sampler": sampler, "guidance": guidance, "guide": guide}
    given_here = {name: value for name, value in chosen.items() if value is not None}
    options = attrs.evolve(defaults, **given_here)  # type: ignore[misc]
    if guidance:
        _check_guidance(recipe, asked, options)
    settings = Settings.of(options, seed)
    folder = _output_folder(out, run)
    with Display() as display:
        total_steps = settings.steps * -(-count // settings.batch_size)
        made = generate(
            experiment.model, modalities, asked, known, count, settings, display.sampling(str(asked), total_steps)
        )
    with explained("cannot make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_samples(folder / "samples.safetensors", [made], modalities, settings)
    draw_grid([made], modalities, folder / "grid.png")
    _report(made, folder)


def _read_given(
    given: Sequence[str], recipe: Recipe, modalities: Mapping[str, Modality]
) -> tuple[Direction, dict[str, Tensor]]:
    """The direction that the options ask for, and the model values that they give."""
    values: dict[str, Tensor] = {}
    try:
        texts = _texts(given)
        asked = direction(texts, modalities)
        recipe.check_direction(asked)
        for name in asked.known:
            values[name] = modalities[name].parse(texts[name])
    except UserError as error:
        raise UserError(str(error), "--given") from error
    return asked, values


def _check_guidance(recipe: Recipe, asked: Direction, options: SampleOptions) -> None:
    try:
        recipe.check_guidance(asked, options.guidance, options.guide)
    except UserError as error:
        raise UserError(str(error), "--guidance") from error


def _texts(given: Sequence[str]) -> dict[str, str]:
    """What is given, by modality."""
    texts: dict[str, str] = {}
    for name, text in map(_split, given):
        if name in texts:
            raise UserError(f"{name!r} is given twice", hint="several values go into one option, such as label=3,5")
        texts[name] = text
    return texts


def _split(one: str) -> tuple[str, str]:
    name, equals, text = one.partition("=")
    if not equals or not name or not text:
        raise UserError(f"{one!r} gives nothing", hint="expected NAME=VALUE, such as label=3 or image=photo.png")
    return name, text


def _line_up(values: Mapping[str, Tensor], each: int) -> tuple[dict[str, Tensor], int]:
    """Given values as rows of equal number, each row ``each`` times; and how many rows that makes."""
    counts = {name: len(x) for name, x in values.items()}
    rows = max(counts.values(), default=1)
    if any(count not in (1, rows) for count in counts.values()):
        numbers = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UserError(f"the given values do not line up: {numbers}", "--given", "give one of each, or equally many")
    repeated = {
        name: x.expand(rows, *x.shape[1:]).repeat_interleave(each, dim=0) for name, x in values.items()
    }  # (rows * each, ...)
    return repeated, rows * each


def _output_folder(out: Path | None, run: Path) -> Path:
    """Where the samples go: never where something is already."""
    if out is None:
        taken = [int(path.name) for path in (run / "samples").glob("*") if path.name.isdecimal()]
        return run / "samples" / str(max(taken, default=0) + 1)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty folder", str(out), "choose another --out")
    return out


def _report(made: Generated, folder: Path) -> None:
    """What was generated, in words where it has words, and where it lies."""
    lines = []
    for name in made.direction.generated:
        if name in made.texts:
            texts = made.texts[name]
            lines += [f"{name} {number}: {text}" for number, text in enumerate(texts[:MOST_LINES], start=1)]
            if len(texts) > MOST_LINES:
                lines.append(f"... and {len(texts) - MOST_LINES} more in samples.safetensors")
    lines.append(f"{len(made)} samples, {made.direction}: {folder / 'grid.png'}, {folder / 'samples.safetensors'}")
    output.print("\n".join(lines), markup=False)
