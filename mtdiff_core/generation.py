"""Samples in a direction, in bounded batches: from a model to values on the host, and to words about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.data.batches import concatenated
from mtdiff_core.diffusion.denoiser import Denoiser, Guidance
from mtdiff_core.diffusion.sampling import SAMPLERS, time_grid
from mtdiff_core.files import tensor_file, write_atomically
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.world import ALONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtdiff_core.data.batches import Batch
    from mtdiff_core.diffusion.denoiser import Sampled
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.directions import Direction
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.recipe.sections import DiffusionOptions, SampleOptions
    from mtdiff_core.world import World

Progress = Callable[[int], None]


@attrs.frozen(kw_only=True)
class Settings:
    """How to sample.

    Attributes:
        steps: Sampling steps.
        diffusion_steps: T of training.
        sampler: A key of ``SAMPLERS``.
        guidance: How strongly what is known is followed.
        batch_size: Samples computed at a time.
        seed: Names all random streams.
    """

    steps: int
    diffusion_steps: int
    sampler: str
    guidance: Guidance
    batch_size: int
    seed: int

    @classmethod
    def of(cls, options: SampleOptions, diffusion: DiffusionOptions, seed: int) -> Settings:
        """The settings that a recipe's ``[sample]`` section asks for, for a model trained with its ``[diffusion]``."""
        guidance = Guidance(scale=options.guidance, by_context=options.guide == "context")
        return cls(
            steps=options.steps,
            diffusion_steps=diffusion.steps,
            sampler=options.sampler,
            guidance=guidance,
            batch_size=options.batch_size,
            seed=seed,
        )


@attrs.frozen(kw_only=True)
class Generated:
    """Samples in one direction.

    Attributes:
        direction: What was known and what was generated.
        values: Model values of all modalities, ``(N, ...)`` each, on the host.
        texts: What :meth:`Modality.describe` says of them, for modalities that say something.
        truth: What was generated as the data has it, where what is known was taken from a data set.
    """

    direction: Direction
    values: Mapping[str, Tensor]
    texts: Mapping[str, list[str]]
    truth: Batch | None = None

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def first(self, count: int) -> Generated:
        """The first samples, in memory of their own."""
        return Generated(
            direction=self.direction,
            values={name: x[:count].clone() for name, x in self.values.items()},
            texts={name: texts[:count] for name, texts in self.texts.items()},
            truth=self.truth and self.truth.first(count),
        )


def generate(
    model: MultiModalDiffusion,
    modalities: Mapping[str, Modality],
    direction: Direction,
    known: Mapping[str, Tensor],
    count: int,
    settings: Settings,
    progress: Progress = lambda steps: None,
    world: World = ALONE,
) -> Generated:
    """Sample in one direction.

    Args:
        model: The joint model; samples are computed on its device.
        modalities: Its modalities, bound.
        direction: What is known.
        known: Model values of what is known, ``(count, ...)`` each.
        count: Number of samples.
        settings: How to sample.
        progress: Called with the number of sampling steps done, so many for each batch.
        world: Processes that have the same model and call this together: they share out the batches, and all get all
            samples.
    """
    mine = [
        generate_batch(
            model, modalities, direction, {name: known[name][rows] for name in direction.known}, rows, settings,
            lambda steps: progress(steps * world.size),
        )
        for rows in batch_rows(count, settings.batch_size)[world.rank :: world.size]
    ]  # fmt: skip
    turns = zip_longest(*world.gather(mine))
    return joined([part for turn in turns for part in turn if part is not None])


def batch_rows(count: int, batch_size: int) -> list[slice]:
    """The rows of each batch of ``count`` samples."""
    return [slice(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]


def joined(parts: Sequence[Generated]) -> Generated:
    """Samples in one direction, one after another."""
    truths = [part.truth for part in parts if part.truth is not None]
    return Generated(
        direction=parts[0].direction,
        values={name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values},
        texts={name: [text for part in parts for text in part.texts[name]] for name in parts[0].texts},
        truth=concatenated(truths) if truths else None,
    )


def generate_batch(
    model: MultiModalDiffusion,
    modalities: Mapping[str, Modality],
    direction: Direction,
    known: Mapping[str, Tensor],
    rows: slice,
    settings: Settings,
    progress: Progress,
) -> Generated:
    """Sample some rows of a larger number; which ones, ``rows.start``, names their random streams.

    Args:
        model: As for :func:`generate`, as are all others.
        modalities: Its modalities, bound.
        direction: What is known.
        known: Model values of what is known in these rows, ``(rows.stop - rows.start, ...)`` each.
        rows: The rows.
        settings: How to sample.
        progress: Called with the number of sampling steps done.
    """
    return as_generated(direction, modalities, sample_batch(model, direction, known, rows, settings, progress))


def as_generated(
    direction: Direction, modalities: Mapping[str, Modality], sampled: Sampled, truth: Batch | None = None
) -> Generated:
    """What was sampled, on the host, with what is said of it."""
    values = {name: x.cpu() for name, x in sampled.values.items()}
    return Generated(direction=direction, values=values, texts=_describe(modalities, sampled), truth=truth)


def sample_batch(
    model: MultiModalDiffusion,
    direction: Direction,
    known: Mapping[str, Tensor],
    rows: slice,
    settings: Settings,
    progress: Progress,
) -> Sampled:
    """As :func:`generate_batch`: values, and the distributions they were read from, on the model's device."""
    parameter = next(model.parameters())
    given = {name: known[name].to(parameter.device) for name in direction.known}
    stream = (settings.seed, "sample", str(direction), rows.start)
    # Noise is drawn on the host, so that a seed gives the same samples on every device.
    shape = (rows.stop - rows.start, *model.process.layout.space)
    noise = torch.randn(shape, generator=generator(*stream)).to(parameter)
    differentiates = bool(given) and settings.guidance.differentiates
    with global_stream(*stream, "steps"), torch.no_grad() if differentiates else torch.inference_mode():
        denoiser = Denoiser(model, given, noise, settings.guidance)
        times = time_grid(model.process, settings.steps, settings.diffusion_steps)
        sampled = SAMPLERS[settings.sampler](denoiser, times, lambda _step: progress(1))
    # Copies, which whoever trains on them may differentiate
    return replace(sampled, values={name: x.clone() for name, x in sampled.values.items()})


def _describe(modalities: Mapping[str, Modality], sampled: Sampled) -> dict[str, list[str]]:
    words = {
        name: modality.describe(sampled.values[name], sampled.distributions.get(name))
        for name, modality in modalities.items()
    }
    return {name: texts for name, texts in words.items() if texts is not None}


def save_samples(
    path: Path, parts: Sequence[Generated], modalities: Mapping[str, Modality], settings: Settings
) -> None:
    """Write samples in natural units: one tensor for each modality, directions one after another.

    The file's metadata says, as JSON under the key ``mtdiff``, which rows belong to which direction (``directions``)
    and how they were made (``settings``).

    Raises:
        UserError: The file cannot be written.
    """
    tensors = {
        name: torch.cat([modality.natural(part.values[name]) for part in parts]).contiguous()
        for name, modality in modalities.items()
    }
    about = about_samples([(part.direction, len(part)) for part in parts], settings)
    write_atomically(path, tensor_file(tensors, about))


def about_samples(parts: Sequence[tuple[Direction, int]], settings: Settings) -> dict[str, Any]:
    """What a file of samples says of itself, for so many samples in each direction, one after another."""
    ranges: list[dict[str, Any]] = []
    for direction, count in parts:
        start = ranges[-1]["stop"] if ranges else 0
        rows = {"start": start, "stop": start + count}
        ranges.append({"direction": str(direction), "given": list(direction.known), **rows})
    return {"directions": ranges, "settings": attrs.asdict(settings)}
