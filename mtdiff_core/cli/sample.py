"""mtdiff sample: samples from a trained run, in any direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

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
from mtdiff_core.directions import direction
from mtdiff_core.errors import UserError, located
from mtdiff_core.files import explained
from mtdiff_core.interfaces.component import evolved
from mtdiff_core.numbering import make_next_number, numbers_in
from mtdiff_core.recipe.sections import GUIDES, SAMPLERS
from mtdiff_core.sampling_job.formats import FORMATS

if TYPE_CHECKING:
    from mtdiff_core.directions import Direction
    from mtdiff_core.generation import Generated, Settings
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.recipe.sections import SampleOptions
    from mtdiff_core.sampling_job.given import Given
    from mtdiff_core.sampling_job.job import SamplingJob
    from mtdiff_core.training.run import TrainedModel

MOST_LINES = 10


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--given", multiple=True, metavar="NAME=VALUE",
    help="What is known, such as label=3 or image=PATH, or image=@test: that of each sample of the run's own test data "
    "(or @train). Several times for several modalities.",
)  # fmt: skip
@click.option(
    "--num", type=click.IntRange(min=1),
    help="Samples; for each given value, if there are several; with @test or @train, its first so many.  "
    "[default: the recipe's in all, at least 1 each; 1 each if the anchor is given; all of @test or @train]",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 100_000), help="Sampling steps.  [default: the recipe's]")
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the recipe's]")
@click.option(
    "--guidance", type=click.FloatRange(min=0), help="How hard what is given pulls; 0 is none.  [default: the recipe's]"
)
@click.option("--guide", type=click.Choice(GUIDES), help="What guides.  [default: the recipe's]")
@compile_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the samples.")
@click.option(
    "--format", "format_name", type=click.Choice(tuple(FORMATS)), default="safetensors", show_default=True,
    help="One file of tensors, or a folder that is a data set to train on.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: RUN/samples/<next number>]")
@click.option("--resume", is_flag=True, help="Go on with --out, or with the newest of RUN/samples, if it was stopped.")
@checkpoint_option
@ema_option
@device_option
def sample(
    run: Path,
    given: tuple[str, ...],
    num: int | None,
    seed: int,
    format_name: str,
    out: Path | None,
    resume: bool,
    checkpoint: int | None,
    ema: float | None,
    device: str,
    **chosen: str | float | bool | None,
) -> None:
    """Sample from RUN, a run directory: everything jointly, or the rest from what is given.

    \b
    Examples:
      mtdiff sample runs/image+label/1 --num 64
      mtdiff sample runs/image+label/1 --given label=3
      mtdiff sample runs/image+label/1 --given image=photo.png
      mtdiff sample runs/image+label/1 --given image=@test
      mtdiff sample runs/image+label/1 --num 50000 --format folder --out my/digits
    """  # noqa: D301 - click's own mark for lines to keep as they are
    registry = load_registry()
    prepare_process()

    from mtdiff_core.generation import Settings, about_samples
    from mtdiff_core.sampling_job.job import SamplingJob
    from mtdiff_core.training.run import load_trained_model
    from mtdiff_core.world import joined

    where = choose_device(device)
    with joined(where) as world:
        trained = load_trained_model(run, registry, where, checkpoint, ema)
        experiment = trained.experiment
        texts, asked = _read_direction(given, experiment.recipe)
        options = _sample_options(experiment.recipe, asked, chosen)
        settings = Settings.of(options, experiment.recipe.diffusion, seed)
        if options.compile:
            experiment.model.compile_backbone()
        with world.main_first():
            known = _read_given(trained, texts, asked, num, seed, quiet=not world.is_main)
        about = _about_job(trained, texts, known, settings, format_name)
        folder = Path(world.from_main(lambda: str(_begun(out, run, resume, about))))
        modalities = {name: source.modality for name, source in experiment.sources.items()}
        files = FORMATS[format_name](folder, modalities, about_samples([(asked, known.count)], settings))
        job = SamplingJob(
            model=experiment.model, modalities=modalities, given=known, settings=settings, files=files, world=world
        )
        shown = _run(job)
        if world.is_main:
            _report(shown, job)


def _run(job: SamplingJob) -> Generated | None:
    """Run a job and show how far it is."""
    done = job.rows_done()
    if done and job.world.is_main:
        errors.print(f"going on after {done} of {job.given.count} samples", markup=False)
    with Display(quiet=not job.world.is_main) as display:
        return job.run(display.sampling(str(job.given.direction), job.settings.steps * len(job.batches)))


def _read_direction(given: Sequence[str], recipe: Recipe) -> tuple[dict[str, str], Direction]:
    """What the user gives, by modality, and the direction that it asks for."""
    try:
        texts = _texts(given)
        asked = direction(texts, recipe.modalities)
        recipe.check_direction(asked)
    except UserError as error:
        raise UserError(str(error), "--given") from error
    return texts, asked


def _sample_options(recipe: Recipe, asked: Direction, chosen: Mapping[str, str | float | bool | None]) -> SampleOptions:
    """The recipe's options of sampling, and what was chosen here in place of them."""
    given_here = {name: value for name, value in chosen.items() if value is not None}
    try:
        options = evolved(recipe.sample, **given_here)
    except ValueError as error:  # nan passes click's range
        raise UserError(str(error), "--guidance") from error
    if "guide" in given_here and not options.guidance:
        raise UserError("without guidance it does nothing", "--guide", "add --guidance, above 0")
    if given_here.keys() & {"guide", "guidance"}:
        with located("--guidance"):
            recipe.check_guidance(asked, options.guidance, options.guide)
    return options


def _read_given(
    trained: TrainedModel, texts: Mapping[str, str], asked: Direction, num: int | None, seed: int, quiet: bool
) -> Given:
    """What is given for each sample."""
    from mtdiff_core.assembly import open_split_again
    from mtdiff_core.interfaces.workshop import Workshop
    from mtdiff_core.sampling_job.given import read_given

    experiment, recipe = trained.experiment, trained.experiment.recipe
    default_all = 1 if recipe.space.anchor in asked.known else recipe.sample.num
    try:
        with Display(quiet=quiet) as display:
            device = next(experiment.model.parameters()).device
            open_split = partial(open_split_again, experiment, Workshop(device, recipe.seed, display.work))
            return read_given(texts, asked, experiment.sources, open_split, num, default_all, seed)
    except UserError as error:
        raise UserError(str(error), "--given") from error


def _about_job(
    trained: TrainedModel, texts: Mapping[str, str], known: Given, settings: Settings, format_name: str
) -> dict[str, Any]:
    """Everything that samples depend on."""
    return {
        "step": trained.step,
        "weights": trained.sha256,
        "direction": str(known.direction),
        "given": dict(texts),
        "values": {name: sha256(x.numpy().tobytes()).hexdigest() for name, x in known.written.items()},
        "num": known.count,
        "format": format_name,
        **attrs.asdict(settings),
    }


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


def _begun(out: Path | None, run: Path, resume: bool, about: Mapping[str, Any]) -> Path:
    """The folder of the job, which is a new one or, with ``resume``, the one that was begun."""
    from mtdiff_core.sampling_job.job import begin_job, check_same_job

    folder = _output_folder(out, run, resume)
    if resume:
        check_same_job(folder, about)
    else:
        begin_job(folder, about)
    return folder


def _output_folder(out: Path | None, run: Path, resume: bool) -> Path:
    """Where the samples go: without ``resume`` never where something is already, nor where another job begins."""
    if out is None:
        folder = run / "samples"
        if resume:
            return folder.joinpath(*map(str, numbers_in(folder)[-1:]))
        with explained("cannot make the folder", folder):
            return make_next_number(folder)
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is not an empty folder", str(out), "choose another --out, or add --resume to go on with it")
    return out


def _report(shown: Generated | None, job: SamplingJob) -> None:
    """What was generated, in words where it has words, and where it lies."""
    lines = []
    asked, count, path = job.given.direction, job.given.count, job.files.path
    words = {} if shown is None else shown.texts
    for name in asked.generated:
        texts = words.get(name, [])[:MOST_LINES]
        for number, text in enumerate(texts, start=1):
            lines.append(f"{name} {number}: {text.removeprefix(f'{name} ')}")  # its words may begin with its name
        if texts and count > len(texts):
            lines.append(f"... and {count - len(texts)} more in {path.name}")
    lines.append(f"{count} sample{'s' * (count > 1)}, {asked}: {job.grid}, {path}")
    output.print("\n".join(lines), markup=False)
