"""Samplers, in any direction: whatever is known stays as it is, all else is generated (method section 3).

A sampler is a function of the model, the times and what is known. The random numbers come from torch's global
generators; callers seed them (``mtdiff_core.randomness``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from mtdiff_core.diffusion.forward import posterior_std

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from mtdiff_core.diffusion.forward import Encodings, NoiseLevel
    from mtdiff_core.diffusion.model import Estimate, MultiModalDiffusion


@attrs.frozen(kw_only=True)
class Sampled:
    """Generated samples.

    Attributes:
        values: Model values of every modality, what was known included, ``(B, ...)`` each.
        distributions: For the modalities that were decoded, the last ``p(x_i | z)``.
    """

    values: Mapping[str, Tensor]
    distributions: Mapping[str, Distribution]


Observer = Callable[[int], None]
Update = Callable[[Tensor, "Encodings", "NoiseLevel", "NoiseLevel"], Tensor]


def time_grid(steps: int) -> Tensor:
    """Times from 1 down to 0, uniform, ``(steps + 1,)``, float64."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def ddim_step(
    model: MultiModalDiffusion,
    z_t: Tensor,
    means: Encodings,
    earlier: NoiseLevel,
    later: NoiseLevel,
    eta: float,
) -> Tensor:
    """``z_s = m^_s + sqrt(s_s^2 - eta^2 s~^2) eps^ + eta s~ n`` with ``eps^ = (z_t - m^_t) / s_t``.

    Args:
        model: Gives the process.
        z_t: The point at the later time, ``(B, C, H, W)``.
        means: ``ê_i`` for every modality.
        earlier: Levels at ``s``.
        later: Levels at ``t > s``.
        eta: 0 is deterministic (DDIM, Song et al. 2021, arXiv 2010.02502), 1 is the ancestral step.
    """
    noise_hat = (z_t - model.process.mean(means, later)) / later.sigma
    std = eta * posterior_std(earlier, later)
    kept = (earlier.sigma**2 - std**2).clamp(min=0).sqrt()
    z_s = model.process.mean(means, earlier) + kept * noise_hat
    return z_s + std * torch.randn_like(z_t) if eta > 0 else z_s


@torch.inference_mode()
def ddim(
    model: MultiModalDiffusion, times: Tensor, noise: Tensor, known: Mapping[str, Tensor], observe: Observer
) -> Sampled:
    """The deterministic sampler: the probability flow, in first order.

    Args:
        model: The joint model.
        times: Decreasing times, the first 1, the last 0, ``(T + 1,)``.
        noise: Standard normal, ``(B, C, H, W)``.
        known: Model values of what is known, ``(B, ...)`` each.
        observe: Called with 1, 2, ..., T after each step.
    """

    def update(z_t: Tensor, means: Encodings, earlier: NoiseLevel, later: NoiseLevel) -> Tensor:
        return ddim_step(model, z_t, means, earlier, later, eta=0)

    return _integrate(model, times, noise, known, observe, update, draw_discrete=False)


@torch.inference_mode()
def ancestral(
    model: MultiModalDiffusion, times: Tensor, noise: Tensor, known: Mapping[str, Tensor], observe: Observer
) -> Sampled:
    """The stochastic sampler: ``q(z_s | z_t, X^)``, discrete modalities drawn. Arguments as for :func:`ddim`."""

    def update(z_t: Tensor, means: Encodings, earlier: NoiseLevel, later: NoiseLevel) -> Tensor:
        return model.process.posterior(z_t, means, earlier, later).sample(torch.randn_like(z_t))

    return _integrate(model, times, noise, known, observe, update, draw_discrete=True)


SAMPLERS: dict[str, Callable[[MultiModalDiffusion, Tensor, Tensor, Mapping[str, Tensor], Observer], Sampled]] = {
    "ancestral": ancestral,
    "ddim": ddim,
}


def _integrate(
    model: MultiModalDiffusion,
    times: Tensor,
    noise: Tensor,
    known: Mapping[str, Tensor],
    observe: Observer,
    update: Update,
    *,
    draw_discrete: bool,
) -> Sampled:
    """The loop that first-order samplers share: estimate, put in what is known, step."""
    known_encodings = model.encode(known)
    levels = [model.process.level(t.expand(len(noise))).to(noise.device, noise.dtype) for t in times]
    z = model.process.marginal(known_encodings, levels[0]).sample(noise) if known else levels[0].sigma * noise
    for number, (later, earlier) in enumerate(pairwise(levels), start=1):
        estimate = model(z, later)
        means = model.posterior_means(estimate, z, later, known_encodings, draw_discrete=draw_discrete)
        z = update(z, means, earlier, later)
        observe(number)
    return _finish(model, means, estimate, known)


def _finish(model: MultiModalDiffusion, means: Encodings, estimate: Estimate, known: Mapping[str, Tensor]) -> Sampled:
    """Values at time 0: what is known exactly as it came, the rest read from the last estimate."""
    distributions = {name: d for name, d in estimate.distributions.items() if name not in known}
    return Sampled(values={**model.values(means, estimate), **known}, distributions=distributions)
