"""A run from a recipe to its samples."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch

from mtdiff_core.assembly import (
    assemble,
    check_unchanged,
    fields_from_json,
    fit_modalities,
    open_held_out_data,
    open_training_data,
    states_from_tensors,
)
from mtdiff_core.data.derived import with_derived
from mtdiff_core.data.loading import training_loader
from mtdiff_core.data.streaming import StreamLoader, stream_loader
from mtdiff_core.data.workers import worker_faults_explained
from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.files import tensor_file
from mtdiff_core.interfaces.workshop import Progress, Workshop, silent
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.run_info import RunInfo
from mtdiff_core.signals import stop_on_signals
from mtdiff_core.training.checkpoint import find_checkpoint, steps_of_checkpoints
from mtdiff_core.training.imputation import check_imputable
from mtdiff_core.training.initial import start_from
from mtdiff_core.training.metrics_log import MetricsLog
from mtdiff_core.training.parallel import check_parallel, check_shardable
from mtdiff_core.training.posthoc import averaged_weights, keep_averages_up_to
from mtdiff_core.training.run_directory import (
    RunDirectory,
    check_is_free,
    create_run_directory,
    find_run_directory,
    keep_metrics_up_to,
    open_run_directory,
)
from mtdiff_core.training.run_sampling import RunSampling, SamplingProgress
from mtdiff_core.training.trainer import Trainer
from mtdiff_core.world import ALONE

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.assembly import Experiment
    from mtdiff_core.data.batches import Source
    from mtdiff_core.data.loading import TrainingLoader
    from mtdiff_core.interfaces.dataset import Samples
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.training.checkpoint import Checkpoint, Part
    from mtdiff_core.world import World

log = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    out: Path | None,
    resume: bool,
    sampling_progress: SamplingProgress,
    fitting_progress: Progress = silent,
    save_at: Collection[int] = (),
    initial: Mapping[str, Tensor] | None = None,
    world: World = ALONE,
    say: Callable[[str], None] = lambda _text: None,
) -> RunDirectory:
    """Train a recipe and sample from it; everything lies in the run directory then.

    Where several processes do so together, all call this; the main one writes.

    Args:
        recipe: What to run.
        registry: Plugins; their lifecycle hooks are called.
        device: Where to run.
        out: The run directory; by default the next number, or with ``resume`` the newest.
        resume: Go on with an existing run.
        sampling_progress: Shows sampling.
        fitting_progress: Shows what modalities learn or derive before training.
        save_at: Steps with checkpoints that stay, besides those that the recipe asks for.
        initial: Weights to start from by name, where the model has them in this shape.
        world: The processes that train together.
        say: Told in a line what there is to train on, and what comes after training.

    Raises:
        UserError: The input is at fault; nothing was written unless training had begun.
        InterruptedRunError: Someone asked to stop; a checkpoint was saved.
    """
    check_parallel(recipe, world)
    workshop = Workshop(device, recipe.seed, fitting_progress)
    existing, checkpoint = _what_to_go_on_with(recipe, registry, out, world) if resume else (None, None)
    if existing is None:
        world.from_main(lambda: check_is_free(out))  # before modalities learn, which may take minutes
    experiment, samples, held_out = _assembled(recipe, checkpoint, workshop, world)
    start_from(experiment.model, initial or {})
    loader = loader_of(recipe, samples, experiment.sources, world)  # before anything is written: data may be wanting
    directory = existing or RunDirectory(
        Path(world.from_main(lambda: str(create_run_directory(recipe, out, registry, device, world.size).path)))
    )
    info = run_info(recipe, directory)
    sampling = RunSampling(experiment, (held_out, samples), directory, world)
    say(_amounts(samples, held_out, loader))
    trainer = Trainer(experiment, loader, directory, info, registry, device, sampling.draw_preview, save_at, world)
    if checkpoint:
        trainer.load(checkpoint)
    trainer.synchronise()
    with _logged(registry, info, directory, trainer, world):
        with stop_on_signals() as stop_requested, worker_faults_explained():
            trainer.fit(stop_requested)
        say(f"training is done; drawing {sampling.plan()}")
        with _training_is_saved():
            grid = sampling.finish(trainer.ema.model, sampling_progress)
        trainer.tell("mtdiff_grid_drawn", step=trainer.step, grid=grid)
    return directory


@contextmanager
def _training_is_saved() -> Iterator[None]:
    """Say so of whatever ends the block before its time."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError("stopped while sampling; training is finished and saved") from error
    except UserError as error:
        raise UserError(str(error), hint="training is finished and saved; go on with --resume") from error
    except Exception as error:
        error.add_note("training is finished and saved; once this is mended, go on with --resume")
        raise


def _amounts(samples: Samples, held_out: Samples, loader: TrainingLoader) -> str:
    """How much there is to train on, and to draw grids from."""
    training = "streamed" if isinstance(loader, StreamLoader) else f"{len(samples):,}"
    others = "none" if held_out is samples else f"{len(held_out):,}"
    return f"{training} training samples, {others} held out"


def run_info(recipe: Recipe, directory: RunDirectory) -> RunInfo:
    """What lifecycle hooks are told of a run."""
    return RunInfo(
        name=recipe.name,
        directory=directory.path,
        total_steps=recipe.train.steps,
        modalities=tuple(recipe.modalities),
    )


def _assembled(
    recipe: Recipe, checkpoint: Checkpoint | None, workshop: Workshop, world: World
) -> tuple[Experiment, Samples, Samples]:
    """The experiment, its training data and its held-out data, with all that modalities learn from it or derive."""
    samples = open_training_data(recipe)
    held_out = open_held_out_data(recipe, samples)
    if checkpoint:
        hint = "give the run its data back, or begin a new one"
        check_unchanged(recipe, fields_from_json(checkpoint.state["fields"]), samples, hint)
        states = states_from_tensors(checkpoint.load("fitted"))
    else:
        states = world.from_main(lambda: fit_modalities(recipe, samples, workshop))
    with world.main_first():
        experiment = assemble(recipe, samples.fields, states)
        derived, sources = with_derived(samples, experiment.sources, workshop)
        others = derived if held_out is samples else with_derived(held_out, experiment.sources, workshop)[0]
    if recipe.train.impute_from:
        check_imputable(experiment.model, recipe.diffusion)
    check_shardable(experiment.model, recipe, world)
    return attrs.evolve(experiment, sources=sources), derived, others


def _what_to_go_on_with(
    recipe: Recipe, registry: Registry, out: Path | None, world: World
) -> tuple[RunDirectory, Checkpoint | None]:
    """The run to go on with and its newest whole checkpoint, as the main process finds them."""

    def find() -> tuple[str, int | None]:
        directory = find_run_directory(recipe, out, registry)
        checkpoint = find_checkpoint(directory.checkpoints)
        return str(directory.path), checkpoint.step if checkpoint else None

    path, step = world.from_main(find)
    directory = open_run_directory(Path(path))
    if step is None:
        return directory, None
    checkpoint = find_checkpoint(directory.checkpoints, lambda s: s == step)
    if checkpoint is None:
        raise UserError(
            f"{world} does not see the checkpoint of step {step}",
            str(directory.checkpoints),
            "the run directory has to lie where all processes can read it",
        )
    return directory, checkpoint


def loader_of(recipe: Recipe, samples: Samples, sources: Mapping[str, Source], world: World = ALONE) -> TrainingLoader:
    """Endless training batches, as the recipe's ``[data]`` asks for them; from the data set's stream, if it has one.

    Raises:
        UserError: There are no samples of the kind that it asks for, or they cannot be shared by so many processes.
    """
    data, stream = recipe.data, recipe.dataset.stream("train")
    if stream is not None:
        return stream_loader(
            stream,
            sources,
            data.batch_size,
            recipe.seed,
            workers=data.workers,
            keep=data.keep,
            rank=world.rank,
            ranks=world.size,
        )
    return training_loader(
        samples,
        sources,
        data.batch_size,
        recipe.seed,
        workers=data.workers,
        keep=data.keep,
        complete_share=data.complete_share,
        rank=world.rank,
        ranks=world.size,
    )


@contextmanager
def _logged(
    registry: Registry, info: RunInfo, directory: RunDirectory, trainer: Trainer, world: World
) -> Iterator[None]:
    """Write the log, and tell plugins that a run starts and, however the block is left, that it ended; once for all.

    Nothing else is told after that.
    """
    if not world.is_main:
        yield
        return
    keep_metrics_up_to(directory, trainer.step)
    keep_averages_up_to(directory.averages, trainer.step)
    with registry.registered(MetricsLog(directory)):
        try:
            registry.notify("mtdiff_run_started", run=info, step=trainer.step)
            yield
        except BaseException:
            # What ends the run is what its user has to hear of, not what a plugin thinks of the end
            registry.notify("mtdiff_run_finished", run=info, step=trainer.step, may_refuse=False)
            raise
        registry.notify("mtdiff_run_finished", run=info, step=trainer.step)


@attrs.frozen(kw_only=True)
class TrainedModel:
    """A run's model, ready to sample.

    Attributes:
        experiment: The recipe, assembled, with the averaged weights of a checkpoint.
        step: Finished training steps.
        sha256: Checksum of these weights.
        ema: ``sigma_rel`` of the average, if it was chosen after training.
    """

    experiment: Experiment
    step: int
    sha256: str
    ema: float | None = None


def load_trained_model(
    path: Path, registry: Registry, device: torch.device, step: int | None = None, ema: float | None = None
) -> TrainedModel:
    """Load the averaged weights of a run; its data is not needed.

    Args:
        path: The run directory.
        registry: Plugins.
        device: Where to.
        step: Those of this step's checkpoint; by default the newest's.
        ema: The average's ``sigma_rel``; by default it is the one that ``train.ema_decay`` asks for.

    Raises:
        UserError: This is no run, it has no checkpoint yet, or the checkpoint is damaged or of another model; or what
            the run kept does not make such an average.
    """
    directory = open_run_directory(path)
    recipe = load_recipe(directory.recipe, registry)
    parts: list[Part] = ["ema", "fitted"] if ema is None else ["ema", "fitted", "averages"]
    checkpoint = find_checkpoint(directory.checkpoints, lambda s: step in (None, s), parts)
    if checkpoint is None and step is not None:
        kept = ", ".join(map(str, steps_of_checkpoints(directory.checkpoints))) or "none"
        raise UserError(f"has no checkpoint of step {step}", str(path), f"kept were: {kept}")
    if checkpoint is None:
        raise UserError(
            "has no checkpoint yet",
            str(path),
            f"go on with it: mtdiff run {directory.recipe} --resume --out {path}",
        )
    states = states_from_tensors(checkpoint.load("fitted"))
    experiment = assemble(recipe, fields_from_json(checkpoint.state["fields"]), states)
    checkpoint.restore("ema", experiment.model)
    sha256 = checkpoint.checksum("ema")
    if ema is not None:
        weights = averaged_weights(directory.averages, checkpoint, recipe.train.ema_sigma_rel, ema)
        experiment.model.load_state_dict({**experiment.model.state_dict(), **weights})
        sha256 = hashlib.sha256(tensor_file(weights, {"ema": ema})).hexdigest()
    experiment.model.to(device).to(memory_format=torch.channels_last)
    experiment.model.eval()
    return TrainedModel(experiment=experiment, step=checkpoint.step, sha256=sha256, ema=ema)
