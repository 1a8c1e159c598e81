"""What training samples lack, drawn from the model itself: Monte Carlo EM (Wei and Tanner 1990)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mtdiff_core.data.loading import Batch
from mtdiff_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.diffusion.model import MultiModalDiffusion

# How many standard deviations of the noise a value's own code may move z_t by where it is asked for without one.
MOST_VISIBLE = 1.0


@torch.no_grad()
def imputed(model: MultiModalDiffusion, batch: Batch, diffusion_steps: int) -> Batch:
    """The batch with what is missing drawn from ``p(x_i | what is present)``, where the anchor is present.

    The network is asked once: one that is told what is known, at the highest noise; another at the lowest, where what
    is present is clear, and what is missing would have left no trace in ``z_t`` (:func:`check_imputable`). The draws
    come from torch's global generator.

    Args:
        model: Best the averaged one; in evaluation mode.
        batch: Values and what is present.
        diffusion_steps: T of training.
    """
    lacking = {name: ~has & batch.present[model.anchor] for name, has in batch.present.items() if name != model.anchor}
    rows = torch.stack(list(lacking.values())).any(dim=0).nonzero().squeeze(1)  # (R,)
    if not len(rows):
        return batch
    present = {name: has[rows] for name, has in batch.present.items()}
    encodings = model.encode({name: x[rows] for name, x in batch.values.items()}, present)
    first = encodings[model.anchor]
    level = model.process.level(first.new_full((len(rows),), _time(model, diffusion_steps)))
    level = level.to(first.device, first.dtype)
    noise = torch.randn(len(rows), *model.process.layout.space, device=first.device, dtype=first.dtype)
    z_t = model.process.marginal(encodings, level).sample(noise)
    distributions = model(z_t, level, model.context(z_t, encodings, present)).distributions
    values, everywhere = dict(batch.values), dict(batch.present)
    for name, lacks in lacking.items():
        drawn = values[name].clone()
        drawn[rows] = distributions[name].sample().to(drawn.dtype)
        mask = lacks.reshape(-1, *[1] * (drawn.dim() - 1))
        values[name] = torch.where(mask, drawn, values[name])
        everywhere[name] = everywhere[name] | lacks
    return Batch(values=values, present=everywhere)


def check_imputable(model: MultiModalDiffusion, diffusion_steps: int) -> None:
    """Whether the network can be asked for something that is missing in ``z_t`` itself.

    Raises:
        UserError: It is not told what is known, and has learnt to find something's code in ``z_t`` at any noise.
    """
    if model.observes:
        return
    level = model.process.level(torch.full((1,), _time(model, diffusion_steps), dtype=torch.float64))
    for name in model.decoders:
        own = model.process.layout.channels(name)
        visible = _norm(level.coefficient[name] / level.sigma[:, own], model.process.layout.slot_shape(name))
        if visible > MOST_VISIBLE:
            raise UserError(
                f"what is missing cannot be drawn: z_t carries {name!r} at the lowest noise still",
                "train.impute_from",
                f'use modalities.{name}.curve = "fading", "early" or "none", or diffusion.conditioning = "observe"',
            )


def _time(model: MultiModalDiffusion, diffusion_steps: int) -> float:
    return 1.0 if model.observes else 1 / diffusion_steps


def _norm(ratio: Tensor, slot: tuple[int, ...]) -> float:
    """Of a code of unit RMS over a slot ``(c, H, W)`` times ``ratio``, ``(1, c, 1, 1)``."""
    return float(ratio.expand(1, *slot).square().sum().sqrt())
