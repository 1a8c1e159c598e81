"""Classes that training samples lack, where the model itself is sure of them: classification EM with a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent

from mtdiff_core.data.batches import Batch
from mtdiff_core.diffusion.model import is_discrete
from mtdiff_core.errors import UserError

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from mtdiff_core.diffusion.forward import NoiseLevel
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.recipe.sections import DiffusionOptions

# How many standard deviations of the noise a value's own code may move z_t by where it is asked for without one.
MOST_VISIBLE = 1.0


def imputable_rows(model: MultiModalDiffusion, present: Mapping[str, Tensor]) -> Tensor:
    """Samples that have the anchor and lack something that a head gives, ascending, ``(R,)``.

    Args:
        model: Whose heads.
        present: Which samples have what, bool ``(B,)`` each, on the host: how many rows there are cannot be known on a
            device without waiting for it.
    """
    has = {name: x.numpy() for name, x in present.items()}
    lacking = [has[model.anchor] & ~has[name] for name in model.decoders]
    return torch.from_numpy(np.flatnonzero(np.any(lacking, axis=0)))


@torch.no_grad()
def imputed(
    model: MultiModalDiffusion, batch: Batch, rows: Tensor, diffusion_steps: int, confidence: float = 0.0
) -> Batch:
    """The batch with the likeliest value, under ``p(x_i | anchor)``, of what is missing and discrete.

    Taking the likeliest in place of a draw (Celeux and Govaert 1992) pulls the classes apart; with few labels that is
    what is wanted. A value that the model is not sure of stays missing (Sohn et al. 2020, arXiv 2001.07685, equation
    4): taught to it, an early error would stay. Each modality is filled in by itself.

    Samples without the anchor, and what is not discrete, stay as they are. The noise comes from torch's global
    generator.

    Args:
        model: Best the averaged one; in evaluation mode.
        batch: Values and what is present.
        rows: Which samples lack something, see :func:`imputable_rows`.
        diffusion_steps: T of training.
        confidence: How probable a value has to be, in [0, 1]; a map, in the mean over its places.
    """
    anchor = model.anchor
    if not len(rows):
        return batch
    distributions = posteriors(model, {anchor: batch.values[anchor][rows]}, diffusion_steps)
    values, present = dict(batch.values), dict(batch.present)
    for name, distribution in distributions.items():
        if is_discrete(distribution):
            likeliest, filled = values[name].clone(), torch.zeros_like(present[name])
            likeliest[rows] = distribution.mode.to(likeliest.dtype)
            filled[rows] = ~present[name][rows] & (sureness(distribution) >= confidence)
            where = filled.reshape(-1, *[1] * (likeliest.dim() - 1))
            values[name], present[name] = torch.where(where, likeliest, values[name]), present[name] | filled
    return Batch(values=values, present=present)


def sureness(distribution: Distribution) -> Tensor:
    """Probability of each sample's likeliest value, ``(B,)``; of values in many places, the mean over these."""
    places = distribution.base_dist if isinstance(distribution, Independent) else distribution
    probability: Tensor = places.log_prob(places.mode).exp()  # (B, ...)
    return probability.flatten(1).mean(dim=1) if probability.dim() > 1 else probability


@torch.inference_mode()
def posteriors(
    model: MultiModalDiffusion, known: Mapping[str, Tensor], diffusion_steps: int
) -> dict[str, Distribution]:
    """``p(x_i | known)`` of what is not known, as far as one call of the network can say it.

    One that is told what is known is asked at the highest noise, which means something only if it was told these in
    training; another at the lowest, where the anchor is clear, and says nothing of what would have left a trace of its
    own in ``z_t`` there, nor anything if the anchor is not known.

    Args:
        model: In evaluation mode.
        known: Model values, ``(B, ...)`` each, at least one.
        diffusion_steps: T of training.
    """
    if not model.observes and model.anchor not in known:
        return {}
    encodings = model.encode(known)
    given = next(iter(encodings.values()))
    at_host = model.process.level(torch.full((len(given),), _time(model, diffusion_steps), dtype=torch.float64))
    level = at_host.to(given.device, given.dtype)
    noise = torch.randn(len(given), *model.process.layout.space, device=given.device, dtype=given.dtype)
    z_t = model.process.marginal(encodings, level).sample(noise)
    distributions = model(z_t, level, model.context(z_t, encodings)).distributions
    return {
        name: distribution
        for name, distribution in distributions.items()
        if name not in known and (model.observes or not _is_visible(model, name, at_host))
    }


def check_imputable(model: MultiModalDiffusion, options: DiffusionOptions) -> None:
    """Whether the network can be asked for something that is missing, given the anchor.

    Raises:
        UserError: It is never told the anchor; or it is told nothing, and ``z_t`` would hold a code to the last.
    """
    if model.observes:
        if not options.tells(model.anchor):
            raise UserError(
                f"what is missing cannot be filled in: the network is never told {model.anchor!r}",
                "train.impute_from",
                "add it to diffusion.observe, with an observe_share above 0",
            )
        return
    level = model.process.level(torch.full((1,), _time(model, options.steps), dtype=torch.float64))
    for name in model.decoders:
        if _is_visible(model, name, level):
            raise UserError(
                f"what is missing cannot be filled in: z_t carries {name!r} at the lowest noise still",
                "train.impute_from",
                f'use modalities.{name}.curve = "early" or "none", or diffusion.conditioning = "observe"',
            )


def _is_visible(model: MultiModalDiffusion, name: str, level: NoiseLevel) -> bool:
    """Whether a value's own code of unit RMS moves ``z_t`` further than noise of this level, that of all samples.

    Args:
        model: Whose forward process.
        name: The modality.
        level: On the host: nobody waits for a device.
    """
    ratio = level.coefficient[name][:1] / level.sigma[:1, model.process.layout.channels(name)]  # (1, c, 1, 1)
    moves = ratio.expand(1, *model.process.layout.slot_shape(name)).square().sum().sqrt()
    return bool(moves.numpy() > MOST_VISIBLE)  # an error where this would wait for a device


def _time(model: MultiModalDiffusion, diffusion_steps: int) -> float:
    return 1.0 if model.observes else 1 / diffusion_steps
