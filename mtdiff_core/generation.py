"""Samples in a direction, in bounded batches: from a model to values on the host, and to words about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.diffusion.denoiser import Denoiser, Guidance
from mtdiff_core.diffusion.sampling import SAMPLERS, time_grid
from mtdiff_core.files import tensor_file, write_atomically
from mtdiff_core.randomness import generator, global_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtdiff_core.diffusion.denoiser import Sampled
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.directions import Direction
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.recipe.sections import SampleOptions

Progress = Callable[[int], None]


@attrs.frozen(kw_only=True)
class Settings:
    """How to sample.

    Attributes:
        steps: Sampling steps.
        sampler: A key of ``SAMPLERS``.
        guidance: How strongly what is known is followed.
        batch_size: Samples computed at a time.
        seed: Names all random streams.
    """

    steps: int
    sampler: str
    guidance: Guidance
    batch_size: int
    seed: int

    @classmethod
    def of(cls, options: SampleOptions, seed: int) -> Settings:
        """The settings that a recipe's ``[sample]`` section asks for."""
        guidance = Guidance(scale=options.guidance, by_context=options.guide == "context")
        return cls(
            steps=options.steps, sampler=options.sampler, guidance=guidance, batch_size=options.batch_size, seed=seed
        )


@attrs.frozen(kw_only=True)
class Generated:
    """Samples in one direction.

    Attributes:
        direction: What was known and what was generated.
        values: Model values of all modalities, ``(N, ...)`` each, on the host.
        texts: What :meth:`Modality.describe` says of them, for modalities that say something.
    """

    direction: Direction
    values: Mapping[str, Tensor]
    texts: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def generate(
    model: MultiModalDiffusion,
    modalities: Mapping[str, Modality],
    direction: Direction,
    known: Mapping[str, Tensor],
    count: int,
    settings: Settings,
    progress: Progress = lambda steps: None,
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
    """
    batches = [
        _one_batch(
            model,
            modalities,
            direction,
            known,
            slice(first, min(first + settings.batch_size, count)),
            settings,
            progress,
        )
        for first in range(0, count, settings.batch_size)
    ]
    texts = {name: [text for batch in batches for text in batch.texts[name]] for name in batches[0].texts}
    values = {name: torch.cat([batch.values[name] for batch in batches]) for name in batches[0].values}
    return Generated(direction=direction, values=values, texts=texts)


def _one_batch(
    model: MultiModalDiffusion,
    modalities: Mapping[str, Modality],
    direction: Direction,
    known: Mapping[str, Tensor],
    rows: slice,
    settings: Settings,
    progress: Progress,
) -> Generated:
    parameter = next(model.parameters())
    given = {name: known[name][rows].to(parameter.device) for name in direction.known}
    stream = (settings.seed, "sample", str(direction), rows.start)
    # Noise is drawn on the host, so that a seed gives the same samples on every device.
    shape = (rows.stop - rows.start, *model.process.layout.space)
    noise = torch.randn(shape, generator=generator(*stream)).to(parameter)
    with global_stream(*stream, "steps"):
        denoiser = Denoiser(model, given, noise, settings.guidance)
        sampled = SAMPLERS[settings.sampler](denoiser, time_grid(settings.steps), lambda _step: progress(1))
    values = {name: x.cpu() for name, x in sampled.values.items()}
    return Generated(direction=direction, values=values, texts=_describe(modalities, sampled))


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
    ranges: list[dict[str, Any]] = []
    for part in parts:
        start = ranges[-1]["stop"] if ranges else 0
        rows = {"start": start, "stop": start + len(part)}
        ranges.append({"direction": str(part.direction), "given": list(part.direction.known), **rows})
    write_atomically(path, tensor_file(tensors, {"directions": ranges, "settings": attrs.asdict(settings)}))
