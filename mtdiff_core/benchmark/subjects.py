"""What is timed: the project's own training and sampling step, and the same network with nothing around it.

Letters for shapes: B batch, C channels of the diffusion space, c channels of the anchor's slot, H W height and width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.assembly import assemble, fit_modalities, open_training_data
from mtdiff_core.data.derived import with_derived
from mtdiff_core.diffusion.objective import negative_log_likelihood
from mtdiff_core.directions import direction
from mtdiff_core.generation import Settings, sample_batch
from mtdiff_core.interfaces.component import evolved
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.randomness import generator
from mtdiff_core.training.imputation import check_imputable
from mtdiff_core.training.run import loader_of, run_info
from mtdiff_core.training.run_directory import RunDirectory
from mtdiff_core.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mtdiff_core.data.batches import Batch, Source
    from mtdiff_core.diffusion.denoiser import Sampled
    from mtdiff_core.interfaces.backbone import Context
    from mtdiff_core.interfaces.codec import NoisySlot
    from mtdiff_core.interfaces.dataset import FieldSpec, Samples
    from mtdiff_core.interfaces.workshop import Progress
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.training.outcome import StepOutcome

# Calls of the network for one timed sample; what is done once a sample is shared among so few, where recipes have 50.
SAMPLING_STEPS = 10


@attrs.frozen(kw_only=True)
class Opened:
    """A recipe with all that has to be read or learnt before a model is built.

    Attributes:
        recipe: The recipe, with a learning rate of 0, so that timing it does not wear the weights out.
        fields: What the data set's own fields hold.
        samples: The training split, with derived fields.
        sources: The modalities, bound, and the fields that they read.
        states: What modalities have learnt.
        registry: Plugins.
        device: Where to run.
    """

    recipe: Recipe
    fields: Mapping[str, FieldSpec]
    samples: Samples
    sources: Mapping[str, Source]
    states: Mapping[str, Mapping[str, Tensor]]
    registry: Registry
    device: torch.device

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        registry: Registry,
        device: torch.device,
        progress: Progress,
        states: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Opened:
        """Open a recipe as a run does.

        Args:
            recipe: The recipe.
            registry: Plugins.
            device: Where to run.
            progress: Shows what modalities learn or derive.
            states: What modalities have learnt; if it is None they learn it now.

        Raises:
            UserError: Its data cannot be read, or its parts do not fit each other.
        """
        samples, workshop = open_training_data(recipe), Workshop(device, recipe.seed, progress)
        states = fit_modalities(recipe, samples, workshop) if states is None else states
        experiment = assemble(recipe, samples.fields, states)
        if recipe.train.impute_from:
            check_imputable(experiment.model, recipe.diffusion)
        derived, sources = with_derived(samples, experiment.sources, workshop)
        return cls(
            recipe=attrs.evolve(
                recipe,
                train=evolved(recipe.train, learning_rate=0.0, compile=False),
                data=evolved(recipe.data, workers=0),  # others would load amid what is timed
            ),
            fields=samples.fields,
            samples=derived,
            sources=sources,
            states=states,
            registry=registry,
            device=device,
        )

    def trainer(self, **options: Any) -> Trainer:
        """A trainer with weights of its own that writes nothing, by the recipe but for some options of ``[train]``."""
        recipe = attrs.evolve(self.recipe, train=evolved(self.recipe.train, **options))
        experiment = attrs.evolve(assemble(recipe, self.fields, self.states), sources=dict(self.sources))
        nowhere = RunDirectory(Path("nowhere"))  # where only fit() would write
        loader, info = loader_of(recipe, self.samples, self.sources), run_info(recipe, nowhere)
        return Trainer(experiment, loader, nowhere, info, self.registry, self.device, _draw_nothing)


def _draw_nothing(_model: object, _step: int) -> Path:
    raise RuntimeError("a trainer that is timed draws nothing")


class TrainingStep:
    """A trainer's step on one batch, half-way through training, again and again.

    Args:
        trainer: Whose.
        batch: On the host, as a loader gives it.
    """

    def __init__(self, trainer: Trainer, batch: Batch) -> None:
        self.trainer, self.batch = trainer, batch
        self.pending: StepOutcome | None = None
        trainer.step = max(1, trainer.options.steps // 2)
        trainer.model.train()

    def __call__(self) -> None:
        """What ``Trainer.fit`` does with one batch."""
        known, self.pending = self.pending, self.trainer.optimize(self.batch)
        if known is not None:
            known.fault(self.trainer.model.anchor)
            known.scalars()


class BareNetwork:
    """A trainer's network, backbone and heads, without anything around it: on tensors that were computed once.

    Args:
        trainer: Whose network, optimizer and precision.
        batch: On the host.
    """

    def __init__(self, trainer: Trainer, batch: Batch) -> None:
        batch = batch.to(trainer.device)
        self.trainer, self.values = trainer, dict(batch.values)
        trainer.model.train()
        model, size, device = trainer.model, len(batch), trainer.device
        random = generator(0, "benchmark")
        noise = torch.randn((size, *model.process.layout.space), generator=random).to(device)  # (B, C, H, W)
        with torch.no_grad():
            self.level = model.process.level(torch.rand(size, generator=random)).to(device, noise.dtype)
            encodings = model.encode(batch.values, batch.present)
            self.z_t = model.process.marginal(encodings, self.level).sample(noise)  # (B, C, H, W)
            self.context: Context = model.context(
                self.z_t,
                encodings,
                {name: torch.zeros_like(has) for name, has in batch.present.items()},
                {name: ~has for name, has in batch.present.items()},
            )
            self.slots: dict[str, NoisySlot] = model.noisy_slots(self.z_t, self.level, self.context)
            self.target = noise[:, model.process.layout.channels(model.anchor)]  # (B, c, H, W)

    def training_step(self) -> None:
        """Forward with the plainest losses, backward, optimizer."""
        trainer = self.trainer
        trainer.optimizer.zero_grad()
        with self._precision():
            estimate = trainer.model.network(self.z_t, self.level.log_snr, self.context, self.slots)
            losses = [(estimate.velocity - self.target).square().mean()]
            for name, distribution in estimate.distributions.items():
                losses.append(negative_log_likelihood(distribution, self.values[name]).mean())
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.step()

    def _precision(self) -> AbstractContextManager[object]:
        trainer = self.trainer
        return torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.options.precision == "bf16")

    @torch.inference_mode()
    def sampling_steps(self) -> None:
        """As many calls of the averaged network as :class:`SamplingRun` makes."""
        model = self.trainer.ema.model.eval()
        for _ in range(SAMPLING_STEPS):
            model.network(self.z_t, self.level.log_snr, self.context, self.slots)


class SamplingRun:
    """Joint samples, as many as a training batch has, with the recipe's sampler in a few steps.

    Args:
        trainer: Whose averaged model.
    """

    def __init__(self, trainer: Trainer) -> None:
        recipe = trainer.experiment.recipe
        self.model, self.size = trainer.ema.model, trainer.batch_size
        self.joint = direction([], recipe.modalities)
        settings = Settings.of(recipe.sample, recipe.diffusion, recipe.seed)
        self.settings = attrs.evolve(settings, steps=SAMPLING_STEPS, batch_size=self.size)

    def __call__(self) -> Sampled:
        """Sample."""
        rows = slice(0, self.size)
        return sample_batch(self.model.eval(), self.joint, {}, rows, self.settings, lambda _step: None)
