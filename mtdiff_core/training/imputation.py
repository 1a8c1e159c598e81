"""Classes that training samples lack, as the model itself finds them likeliest: classification EM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mtdiff_core.data.loading import Batch
from mtdiff_core.diffusion.model import is_discrete
from mtdiff_core.errors import UserError

if TYPE_CHECKING:
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.recipe.sections import DiffusionOptions

# How many standard deviations of the noise a value's own code may move z_t by where it is asked for without one.
MOST_VISIBLE = 1.0


@torch.no_grad()
def imputed(model: MultiModalDiffusion, batch: Batch, diffusion_steps: int) -> Batch:
    """The batch with the likeliest value, under ``p(x_i | anchor)``, of what is missing and discrete.

    Taking the likeliest in place of a draw (Celeux and Govaert 1992) pulls the classes apart; with few labels that is
    what is wanted. Each modality is filled in by itself.

    The network is asked once: one that is told what is known, at the highest noise; another at the lowest, where the
    anchor is clear, and what is missing would have left no trace in ``z_t`` (:func:`check_imputable`). Samples without
    the anchor, and what is not discrete, stay as they are. The noise comes from torch's global generator.

    Args:
        model: Best the averaged one; in evaluation mode.
        batch: Values and what is present.
        diffusion_steps: T of training.
    """
    anchor = model.anchor
    lacking = {name: ~batch.present[name] & batch.present[anchor] for name in model.decoders}
    rows = torch.stack([batch.present[anchor] & False, *lacking.values()]).any(dim=0).nonzero().squeeze(1)  # (R,)
    if not len(rows):
        return batch
    encodings = model.encode({anchor: batch.values[anchor][rows]})
    given = encodings[anchor]
    level = model.process.level(given.new_full((len(rows),), _time(model, diffusion_steps), dtype=torch.float64))
    level = level.to(given.device, given.dtype)
    noise = torch.randn(len(rows), *model.process.layout.space, device=given.device, dtype=given.dtype)
    z_t = model.process.marginal(encodings, level).sample(noise)
    distributions = model(z_t, level, model.context(z_t, encodings)).distributions
    values, present = dict(batch.values), dict(batch.present)
    for name, distribution in distributions.items():
        if is_discrete(distribution):
            likeliest = values[name].clone()
            likeliest[rows] = distribution.mode.to(likeliest.dtype)
            where = lacking[name].reshape(-1, *[1] * (likeliest.dim() - 1))
            values[name], present[name] = torch.where(where, likeliest, values[name]), present[name] | lacking[name]
    return Batch(values=values, present=present)


def check_imputable(model: MultiModalDiffusion, options: DiffusionOptions) -> None:
    """Whether the network can be asked for something that is missing, given the anchor.

    Raises:
        UserError: It is never told the anchor; or it is told nothing, and ``z_t`` would hold a code to the last.
    """
    if model.observes:
        if options.observe_share == 0 or (options.observe and model.anchor not in options.observe):
            raise UserError(
                f"what is missing cannot be filled in: the network is never told {model.anchor!r}",
                "train.impute_from",
                "add it to diffusion.observe, with an observe_share above 0",
            )
        return
    level = model.process.level(torch.full((1,), _time(model, options.steps), dtype=torch.float64))
    for name in model.decoders:
        ratio = level.coefficient[name] / level.sigma[:, model.process.layout.channels(name)]  # (1, c, 1, 1)
        # The norm of a code of unit RMS times this ratio
        if ratio.expand(1, *model.process.layout.slot_shape(name)).square().sum().sqrt() > MOST_VISIBLE:
            raise UserError(
                f"what is missing cannot be filled in: z_t carries {name!r} at the lowest noise still",
                "train.impute_from",
                f'use modalities.{name}.curve = "early" or "none", or diffusion.conditioning = "observe"',
            )


def _time(model: MultiModalDiffusion, diffusion_steps: int) -> float:
    return 1.0 if model.observes else 1 / diffusion_steps
