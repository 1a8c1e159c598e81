"""The training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtdiff_core.assembly import fields_to_json, states_to_tensors
from mtdiff_core.data.batches import split_tensors
from mtdiff_core.diffusion.objective import loss_counts
from mtdiff_core.errors import InterruptedRunError, UserError, located
from mtdiff_core.randomness import global_stream
from mtdiff_core.training.checkpoint import (
    checkpoint_folder,
    find_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
)
from mtdiff_core.training.draws import Draws
from mtdiff_core.training.ema import ExponentialMovingAverage
from mtdiff_core.training.imputation import imputable_rows, imputed
from mtdiff_core.training.outcome import StepNotes, StepOutcome
from mtdiff_core.training.parallel import TrainingLoss, gradients_sent, shard, wrapped
from mtdiff_core.training.posthoc import PowerFunctionAverages, keep_averages_up_to
from mtdiff_core.training.saving import BackgroundSaver, CheckpointWriters
from mtdiff_core.transfer import to_device
from mtdiff_core.world import ALONE, LostProcessError

if TYPE_CHECKING:
    from mtdiff_core.assembly import Experiment
    from mtdiff_core.data.batches import Batch
    from mtdiff_core.data.loading import TrainingLoader
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.registry.run_info import RunInfo
    from mtdiff_core.training.checkpoint import Checkpoint, Part
    from mtdiff_core.training.run_directory import RunDirectory
    from mtdiff_core.world import World

log = logging.getLogger(__name__)

EARLY_GRID = 100  # a first picture while there is still time to stop a run that goes wrong
DrawGrid = Callable[["MultiModalDiffusion", int], Path]


class Trainer:
    """Trains one experiment, from wherever its newest checkpoint stands.

    The host asks for the next step before it hears what came of the last, so that neither it nor the device waits. So
    all that it decides by what came of steps, it decides one step later.

    Args:
        experiment: What is trained.
        loader: Endless training batches, in the size that the recipe says.
        directory: Where checkpoints go.
        info: What lifecycle hooks are told.
        registry: Whose lifecycle hooks are called.
        device: Where the model runs.
        draw_grid: Draws samples of a model after so many steps, and says where; called on all processes.
        save_at: Steps with checkpoints that stay, besides those that the recipe asks for.
        world: The processes that train together; each has its own rows of every batch.
    """

    def __init__(
        self,
        experiment: Experiment,
        loader: TrainingLoader,
        directory: RunDirectory,
        info: RunInfo,
        registry: Registry,
        device: torch.device,
        draw_grid: DrawGrid,
        save_at: Collection[int] = (),
        world: World = ALONE,
    ) -> None:
        recipe = experiment.recipe
        self.world = world
        self.options, self.seed, self.device = recipe.train, recipe.seed, device
        self.diffusion_steps, self.batch_size = recipe.diffusion.steps, recipe.data.batch_size
        self.experiment, self.directory, self.info, self.registry = experiment, directory, info, registry
        self.draws = Draws(experiment, device)
        self.draw_grid, self.save_at = draw_grid, frozenset(save_at)
        self.model = experiment.model.to(device)
        loss = TrainingLoss(experiment.objective)
        self.shards = world.size > 1 and self.options.parallel == "fsdp2"
        if not self.shards:  # it takes parameters as they lie by default alone
            self.model.to(memory_format=torch.channels_last)
        self.ema = ExponentialMovingAverage(self.model, self.options.ema_decay)
        if self.shards:  # after the average was copied
            shard(loss, self.model)
            shard(self.ema.model, self.ema.model)
        tracked = self.options.ema_sigma_rel if self.options.ema_snapshots else ()
        self.averages = PowerFunctionAverages(self.model, tracked)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.options.learning_rate,
            betas=(self.options.betas[0], self.options.betas[1]),
            weight_decay=self.options.weight_decay,
            fused=True,
        )
        self.loader = loader
        if self.options.compile:
            loss.compile()
        if recipe.sample.compile:
            self.ema.model.compile_backbone()
        self.loss = wrapped(loss, world, device)
        self.parameters = dict(self.model.named_parameters())
        self.step, self.saved_step, self.went_back_to = 0, -1, -1
        self.notes = StepNotes(self.batch_size, self.model.anchor)
        self.saver = BackgroundSaver()
        self.writers = CheckpointWriters(world, world.second_line() if self.shards else None)

    def fit(self, stop_requested: Callable[[], bool]) -> None:
        """Train to the last step.

        Args:
            stop_requested: Asked after every step.

        Raises:
            InterruptedRunError: Someone asked to stop; a checkpoint was saved.
            UserError: Too many non-finite steps in a row, also after going back, or the disk is full; the last good
                checkpoint is kept. Or the data cannot be read; a checkpoint was saved.
        """
        try:
            self._train(stop_requested)
        finally:
            self.saver.finish()

    def _train(self, stop_requested: Callable[[], bool]) -> None:
        batches = iter(self.loader)
        self.notes.meter.start()
        self.model.train()  # once: samples are drawn from the average, and walking through all modules takes its time
        while self.step < self.options.steps:
            self.saver.poll()
            batch = self._next(batches)
            self.step += 1
            self._log(self.notes.add(self.optimize(batch)))
            if self.step == self.options.steps and not self._goes_wrong():
                self._log(self.notes.catch_up())
            if self._goes_wrong():
                self._go_back()
                continue
            if self._wants_grid() or self._is_scheduled(self.step):
                self._log(self.notes.catch_up())
            if self._wants_grid():
                self._draw()
            if self._is_due(self.step):
                self.save()
            elif self._keeps_averages():
                self.saver.begin(*self._averages_writers())
            if self.world.any(stop_requested()):
                self.save()
                self.saver.finish()
                self.world.wait()  # for the one that writes: a launcher ends all when the first one ends
                raise InterruptedRunError(f"stopped after step {self.step}; the checkpoint is saved")
        self.save()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; if the data fails, of whichever process, what was done so far is saved first."""
        batch, fault = None, None
        try:
            batch = next(batches)
        except UserError as error:
            fault = error
        if self.world.any(fault is not None):
            if self.step:
                self.save()
            self.saver.finish()
            self.world.wait()  # for the one that writes: a launcher ends all when the first one ends
        if fault is not None or batch is None:
            raise fault or LostProcessError(f"{self.world}: another one cannot read its data", hint="it says why")
        return batch

    def optimize(self, batch: Batch) -> StepOutcome:
        """One step on a batch; if its loss or gradient is not finite, weights and averages stay as they are.

        Args:
            batch: On the host.
        """
        learning_rate = self.options.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        terms: dict[str, Tensor] = {}
        at_host, batch = batch, batch.to(self.device)
        with global_stream(self.seed, "dropout", self.step, *self.world.own_stream):
            for part_terms in self._backward(self._imputed(batch, at_host.present)):
                for name, term in part_terms.items():
                    terms[name] = terms.get(name, 0) + term.detach()
        terms = self.world.add_all(terms)
        self.model.record(batch.values, batch.present, self.world.join)
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        outcome = StepOutcome(self.step, terms, gradients)
        if self.options.gradient_clip:
            parameters, limit = self.parameters.values(), self.options.gradient_clip
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, outcome.norm, foreach=True)
        # As torch's own GradScaler does it: fused optimizers read this on the device, and leave all as it is
        self.optimizer.found_inf = (~outcome.is_good).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.ema.update_parameters(self.model, outcome.is_good)
        self.averages.update(self.ema.n_averaged, outcome.is_good)
        return outcome

    def _imputed(self, batch: Batch, present: Mapping[str, Tensor]) -> Batch:
        """The batch, from some step on with the classes that it lacks and the averaged model is sure of.

        Args:
            batch: On the device.
            present: Which of its samples have what, on the host.
        """
        if not self.options.impute_from or self.step < self.options.impute_from:
            return batch
        with global_stream(self.seed, "impute", self.step):
            model = self.ema.model.eval()
            rows = to_device(imputable_rows(model, present), self.device)
            return imputed(model, batch, rows, self.diffusion_steps, self.options.impute_confidence)

    def _backward(self, batch: Batch) -> Iterator[Mapping[str, Tensor]]:
        """Gradients of each part of the batch, in turn; the terms of its loss, as a share of those of all processes."""
        parts = self.options.accumulate
        rows = self.world.rows(self.batch_size)
        times, noise = (x[rows].chunk(parts) for x in (self.draws.times(self.step), self.draws.noise(self.step)))
        is_known = self._known(batch.present, rows)
        counts = self.world.add_all(loss_counts(batch.present, is_known))
        known = split_tensors(is_known, parts)
        for i, part in enumerate(batch.split(parts)):
            level = self.model.process.level(times[i]).to(self.device, noise[i].dtype)
            with gradients_sent(self.loss, now=i == parts - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
                    total, terms = self.loss(part.values, part.present, known[i], level, noise[i], counts)
                (total * self.world.size).backward()  # the mean over processes makes it the sum
            yield terms

    def _known(self, present: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
        """Which samples the network is told each modality of, bool ``(B,)``; of this process's rows."""
        drawn = self.draws.known(self.step, list(present))
        return {name: to_device(drawn[name][rows], self.device) & has for name, has in present.items()}

    def _goes_wrong(self) -> bool:
        return self.notes.skipped_in_a_row >= self.options.max_skipped

    def _go_back(self) -> None:
        """After too many non-finite steps in a row: to the newest checkpoint, and on with the batches that come now.

        One that was saved because someone asked to stop does not count, so that a run which is stopped and resumed goes
        back to where it would have gone otherwise.

        Raises:
            UserError: There is none that is whole, or it is the one that the run went back to before.
        """
        self.saver.finish()
        self.world.wait()  # for what the main process saved
        count, last, fault = self.notes.skipped_in_a_row, self.notes.step, self.notes.fault
        found = f"{count} steps in a row were not finite, the last at step {last}: {fault}"
        with located(found):
            checkpoint = find_checkpoint(self.directory.checkpoints, self._is_due)
        if checkpoint is None or checkpoint.step == self.went_back_to:
            kept = f"the checkpoint of step {checkpoint.step} is kept" if checkpoint else "no checkpoint was saved yet"
            hint = f"{kept}; try a lower train.learning_rate or fp32, or look for bad values in the data"
            raise UserError(found, str(self.directory.path), hint)
        log.warning("%s; going back to step %d, and on with other batches", found, checkpoint.step)
        skipped = self.notes.skipped
        self._restore(checkpoint)
        if self.world.is_main:
            keep_averages_up_to(self.directory.averages, self.step)
        self.notes.skipped, self.went_back_to = skipped, checkpoint.step
        self.tell("mtdiff_run_went_back", step=self.step)

    def _log(self, step: int | None) -> None:
        """A line of the log, if one is due after this step."""
        if step is None or (step % self.options.log_every and step != self.options.steps):
            return
        scalars = self.notes.meter.take()
        scalars["learning_rate"] = self.options.learning_rate_at(step)
        scalars["skipped_steps"] = float(self.notes.skipped)
        self.tell("mtdiff_step_finished", step=step, scalars=scalars)

    def tell(self, hook: str, **what: Any) -> None:
        """Tell plugins, once for all processes."""
        if self.world.is_main:
            self.registry.notify(hook, run=self.info, **what)

    def _wants_grid(self) -> bool:
        every = self.options.grid_every
        return every > 0 and (self.step % every == 0 or self.step == EARLY_GRID) and self.step < self.options.steps

    def _draw(self) -> None:
        self.saver.finish()
        grid = self.draw_grid(self.ema.model, self.step)
        self.tell("mtdiff_grid_drawn", step=self.step, grid=grid)

    def save(self) -> None:
        """Begin to save a checkpoint of the finished steps, unless there is one."""
        if self.saved_step == self.step:
            return
        self._log(self.notes.catch_up())
        self.saver.finish()  # before there are copies for another one
        self.saved_step = self.step
        writes: list[Callable[[], object]] = []
        if self._keeps_averages():  # first: a run that goes on from the checkpoint has to find them
            writes += self._averages_writers()
        self.saver.begin(*writes, *self._writers(), tell=partial(self._tell_saved, self.step))

    def _writers(self) -> list[Callable[[], object]]:
        """What this process does to save a checkpoint: of parts on the way, whole at the end."""
        folder, parts, fitted = self.directory.checkpoints, self._tensors(), states_to_tensors(self.experiment.sources)
        write = self.writers.whole if self.step == self.options.steps else self.writers.parts
        # One that was not due takes nothing away from those that were: a run may have to go back to them
        keep = self.options.keep_checkpoints + (not self._is_due(self.step))
        return write(folder, {**parts, "fitted": fitted}, self._state(), keep, self._stays)

    def _keeps_averages(self) -> bool:
        """Whether the averages of this step are kept: evenly over the run, whose end its last checkpoint has."""
        times = self.options.ema_snapshots
        due = {round(self.options.steps * i / (times + 1)) for i in range(1, times + 1)}
        return bool(self.averages.averages) and self.step in due and self.step < self.options.steps

    def _averages_writers(self) -> list[Callable[[], object]]:
        state = {"step": self.step, "ema_updates": int(self.ema.n_averaged)}
        tensors: dict[Part, Mapping[str, Tensor]] = {"averages": self.averages.state_dict()}
        return self.writers.whole(self.directory.averages, tensors, state, keep=1, stays=lambda step: True)

    def _tensors(self) -> dict[Part, Mapping[str, Tensor]]:
        """All that training changes."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }

    def _state(self) -> dict[str, Any]:
        """What else a checkpoint holds, as JSON data that training does not change; all processes have to ask."""
        loaders = [state for (state,) in self.world.gather([self.loader.state_dict()], in_a_step=True)]
        return {
            "step": self.step,
            "ema_updates": int(self.ema.n_averaged),
            "notes": deepcopy(self.notes.state_dict()),
            "went_back_to": self.went_back_to,
            "loader": deepcopy(self.loader.joint_state(loaders)),
            "fields": fields_to_json(self.experiment.fields),
        }

    def _tell_saved(self, step: int) -> None:
        path = checkpoint_folder(self.directory.checkpoints, step)
        self.tell("mtdiff_checkpoint_saved", step=step, checkpoint=path)

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint is saved after a finished step, even if nobody asks to stop; not amid bad ones."""
        return self._is_scheduled(step) and step <= self.notes.step - self.notes.skipped_in_a_row

    def _is_scheduled(self, step: int) -> bool:
        return step % self.options.checkpoint_every == 0 or step in self.save_at

    def _stays(self, step: int) -> bool:
        every = self.options.keep_every
        return step in self.save_at or (every > 0 and step % every == 0)

    def synchronise(self) -> None:
        """Give all processes the main one's weights: each drew or read its own, which are the same but for rounding."""
        if not self.shards:
            for module in (self.model, self.ema.model, self.averages):
                self.world.same_tensors(module.state_dict())

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: The checkpoint is damaged, or of another model.
        """
        self._restore(checkpoint)
        self.loader.load_state_dict(checkpoint.state["loader"])
        self.went_back_to = checkpoint.state["went_back_to"]

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Everything but the place in the data."""
        checkpoint.restore("model", self.model)
        checkpoint.restore("ema", self.ema.model)
        checkpoint.restore("averages", self.averages)
        self.ema.n_averaged.fill_(checkpoint.state["ema_updates"])
        self.notes.load_state_dict(checkpoint.state["notes"])
        load_optimizer_tensors(self.optimizer, self.model, checkpoint)
        self.step = self.saved_step = checkpoint.step
