"""Samplers, in any direction: whatever is known stays as it is, all else is generated (method section 3).

A sampler is a function of the denoiser and decreasing times. The random numbers come from torch's global generators;
callers seed them (``mtdiff_core.randomness``).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core.diffusion.forward import posterior_std

if TYPE_CHECKING:
    from mtdiff_core.diffusion.denoiser import Denoiser, Sampled
    from mtdiff_core.diffusion.forward import Encodings, ForwardProcess, NoiseLevel

Observer = Callable[[int], None]


# log-SNR at which sampling starts: no channel's signal is above a thousandth of its noise there.
LEAST_LOG_SNR = -14.0


def time_grid(process: ForwardProcess, steps: int, diffusion_steps: int) -> Tensor:
    """Times at which the network is asked, even in log-SNR (Lu et al. 2022, arXiv 2206.00927), then 0.

    They begin where every channel's log-SNR is -14, or at 1 if it is higher there, so that there are several while
    labels are settled, in the highest tenth of the time. They end at ``1/T``, the end of the bound's chain (method
    section 4), whose answer the decoders' values are read from: what a known modality says is clear there, and what the
    sampler itself had put into ``z_t`` has faded.

    Args:
        process: The forward process.
        steps: Calls of the network.
        diffusion_steps: T of training; with more steps than T, the last time is ``1/steps``.

    Returns:
        Decreasing times, ``(steps + 1,)``, float64.
    """
    last, shift = 1 / max(diffusion_steps, steps), float(process.log_snr_shift().amax().clamp(min=0))
    ends = process.schedule.log_snr(torch.tensor([1.0, last], dtype=torch.float64)).clamp(min=LEAST_LOG_SNR - shift)
    asked = process.schedule.time_at(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64))
    return torch.cat([asked, asked.new_zeros(1)])


def ddim_step(
    process: ForwardProcess, z_t: Tensor, means: Encodings, earlier: NoiseLevel, later: NoiseLevel, eta: float
) -> Tensor:
    """``z_s = m^_s + sqrt(s_s^2 - eta^2 s~^2) eps^ + eta s~ n`` with ``eps^ = (z_t - m^_t) / s_t``.

    Args:
        process: The forward process.
        z_t: The point at the later time, ``(B, C, H, W)``.
        means: ``ê_i`` for every modality.
        earlier: Levels at ``s``.
        later: Levels at ``t > s``.
        eta: 0 is deterministic (DDIM, Song et al. 2021, arXiv 2010.02502), 1 is the ancestral step.
    """
    noise_hat = (z_t - process.mean(means, later)) / later.sigma
    std = eta * posterior_std(earlier, later)
    kept = (earlier.sigma**2 - std**2).clamp(min=0).sqrt()
    z_s = process.mean(means, earlier) + kept * noise_hat
    return z_s + std * torch.randn_like(z_t) if eta > 0 else z_s


@torch.no_grad()
def ddim(denoiser: Denoiser, times: Tensor, observe: Observer) -> Sampled:
    """The deterministic sampler: the probability flow, in first order.

    Args:
        denoiser: The model, in one direction.
        times: Decreasing times, the last 0, ``(T + 1,)``.
        observe: Called with 1, 2, ..., T after each step.
    """
    levels = denoiser.levels(times)
    z = denoiser.start(levels[0])
    for number, (later, earlier) in enumerate(pairwise(levels), start=1):
        means, estimate = denoiser(z, later)
        z = ddim_step(denoiser.process, z, means, earlier, later, eta=0)
        observe(number)
    return denoiser.finish(means, estimate)


@torch.no_grad()
def ancestral(denoiser: Denoiser, times: Tensor, observe: Observer) -> Sampled:
    """The stochastic sampler: ``q(z_s | z_t, X^)``, discrete modalities drawn. Arguments as for :func:`ddim`."""
    levels = denoiser.levels(times)
    z = denoiser.start(levels[0])
    for number, (later, earlier) in enumerate(pairwise(levels), start=1):
        means, estimate = denoiser(z, later, draw_discrete=True)
        z = denoiser.process.posterior(z, means, earlier, later).sample(torch.randn_like(z))
        observe(number)
    return denoiser.finish(means, estimate)


@torch.no_grad()
def dpmpp_2m(denoiser: Denoiser, times: Tensor, observe: Observer) -> Sampled:
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) over all modalities.

    The probability flow ``d(z/s) = sum_i ê_i d(c^i/s)`` is integrated exactly for ``ê_i`` constant over a step; each
    ``ê_i`` is extrapolated in log-SNR to the middle of the step from its last two values, which makes it second order
    for any path ``c^i/s``. A step from or to an infinite log-SNR has no middle: there the order is one. Arguments as
    for :func:`ddim`.
    """
    return _two_step(denoiser, times, observe, eta=0)


@torch.no_grad()
def dpmpp_2m_sde(denoiser: Denoiser, times: Tensor, observe: Observer) -> Sampled:
    """SDE-DPM-Solver++ 2M (in the same paper): the extrapolated ``ê_i`` of :func:`dpmpp_2m` in the ancestral step.

    Discrete modalities are averaged, not drawn: a draw cannot be extrapolated. Arguments as for :func:`ddim`.
    """
    return _two_step(denoiser, times, observe, eta=1)


def _two_step(denoiser: Denoiser, times: Tensor, observe: Observer, eta: float) -> Sampled:
    """Steps of :func:`ddim_step` with every ``ê_i`` extrapolated from its last two values."""
    levels = denoiser.levels(times)
    z = denoiser.start(levels[0])
    previous: Encodings | None = None
    for number, (later, earlier) in enumerate(pairwise(levels), start=1):
        means, estimate = denoiser(z, later)
        ahead = means if previous is None else extrapolated(means, previous, levels[number - 2], later, earlier)
        z = ddim_step(denoiser.process, z, ahead, earlier, later, eta)
        previous = means
        observe(number)
    return denoiser.finish(means, estimate)


def extrapolated(
    means: Encodings, previous: Encodings, before: NoiseLevel, later: NoiseLevel, earlier: NoiseLevel
) -> Encodings:
    """``ê + (ê - ê_previous) h / 2 h_previous``, h being a step in log-SNR; ``ê`` where a step is infinite."""
    ratio = (earlier.log_snr - later.log_snr) / (later.log_snr - before.log_snr) / 2  # (B,)
    ratio = torch.where(ratio.isfinite(), ratio, 0)[:, None, None, None]
    return {name: mean + ratio * (mean - previous[name]) for name, mean in means.items()}


SAMPLERS: dict[str, Callable[[Denoiser, Tensor, Observer], Sampled]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}
