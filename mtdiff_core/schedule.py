"""Noise schedules: the signal and noise levels ``a_t, s_t`` over time ``t`` from 0 (data) to 1 (noise).

Everything is computed through tensor methods, in the dtype of its input; give float64 for exactness.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING

from mtdiff_core.interfaces.component import Component, component, option

if TYPE_CHECKING:
    from torch import Tensor


class NoiseSchedule(Component, ABC):
    """A strictly decreasing log-SNR over time, ``l_t = log(a_t^2 / s_t^2)``, and the levels that go with it."""

    __slots__ = ()

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """Log-SNR at times ``t`` in [0, 1], of any shape; may be ``+inf`` at 0 and ``-inf`` at 1."""

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The time in [0, 1] at which the log-SNR is this, to a double's precision; 0 or 1 if it is beyond their own.

        Args:
            log_snr: float64, of any shape.
        """
        early, late = log_snr.new_zeros(log_snr.shape), log_snr.new_ones(log_snr.shape)
        for _ in range(60):
            middle = (early + late) / 2
            is_early = self.log_snr(middle) > log_snr
            early, late = middle.where(is_early, early), late.where(is_early, middle)
        return (early + late) / 2

    def alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Levels ``(a, s)`` at a log-SNR; variance preserving (``a^2 + s^2 = 1``) unless a schedule says otherwise."""
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


@component
class CosineSchedule(NoiseSchedule):
    """alpha_bar = cos^2, from Nichol and Dhariwal 2021 (arXiv 2102.09672, equation 17)."""

    offset: float = option(
        0.008, help="keeps the first steps from being too small (s in the paper)", minimum=0, maximum=0.5
    )
    log_snr_shift: float = option(
        0.0,
        help="below 0 more of the time is noisy: for larger pictures (Hoogeboom et al. 2023), or more to decide",
        minimum=-3,
        maximum=3,
    )

    def log_snr(self, t: Tensor) -> Tensor:
        """``alpha_bar(t) = cos^2(u_t) / cos^2(u_0)`` with ``u_t = (t + offset) / (1 + offset) * pi / 2``, shifted."""
        scale, u_0 = self._scale_and_start()
        u = (t + self.offset) * scale
        # Rounded, the cosine may end below 0.
        # 1 - alpha_bar = sin(u + u_0) sin(u - u_0) / cos^2(u_0): no difference of nearly equal numbers.
        log_snr = 2 * u.cos().clamp(min=0).log() - (u + u_0).sin().log() - (t * scale).sin().log()
        return log_snr + self.log_snr_shift

    def time_at(self, log_snr: Tensor) -> Tensor:
        """In closed form, from ``cos^2(u_t) = cos^2(u_0) alpha_bar`` and its complement, so that neither cancels."""
        scale, u_0 = self._scale_and_start()
        alpha_bar, rest = (log_snr - self.log_snr_shift).sigmoid(), (self.log_snr_shift - log_snr).sigmoid()
        sine, cosine = (math.sin(u_0) ** 2 * alpha_bar + rest).sqrt(), math.cos(u_0) * alpha_bar.sqrt()
        return (sine.atan2(cosine) / scale - self.offset).clamp(0, 1)

    def _scale_and_start(self) -> tuple[float, float]:
        """``u_t`` by time, and ``u_0``."""
        scale = math.pi / 2 / (1 + self.offset)
        return scale, self.offset * scale


@cache
def _linear_log_alpha_bar(beta_start: float, beta_end: float, steps: int) -> tuple[float, ...]:
    """``log alpha_bar_i = sum_{j<=i} log(1 - beta_j)`` for i = 0..steps."""
    table = [0.0]
    for j in range(steps):
        table.append(table[-1] + math.log1p(-(beta_start + (beta_end - beta_start) * j / (steps - 1))))
    return tuple(table)


@component
class LinearSchedule(NoiseSchedule):
    """Linear beta_t over 1000 steps, from DDPM (Ho et al. 2020, arXiv 2006.11239, section 4)."""

    beta_start: float = option(1e-4, help="variance added in the first of 1000 steps", minimum=1e-8, maximum=0.5)
    beta_end: float = option(0.02, help="variance added in the last of 1000 steps", minimum=1e-8, maximum=0.5)

    def log_snr(self, t: Tensor) -> Tensor:
        """DDPM's own product at ``t = i / 1000``; ``log alpha_bar`` is linear in between."""
        steps = 1000
        table = t.new_tensor(_linear_log_alpha_bar(self.beta_start, self.beta_end, steps))
        left = (t * steps).floor().clamp(0, steps - 1).long()
        log_alpha_bar = table[left].lerp(table[left + 1], t * steps - left)
        return log_alpha_bar - (-log_alpha_bar.expm1()).log()


@component
class RectifiedFlowSchedule(NoiseSchedule):
    """a = 1 - t, s = t: straight paths, from Liu et al. 2022 (arXiv 2209.03003)."""

    def log_snr(self, t: Tensor) -> Tensor:
        """``2 log((1 - t) / t)``."""
        return 2 * ((1 - t).log() - t.log())

    def time_at(self, log_snr: Tensor) -> Tensor:
        """In closed form."""
        return (-log_snr / 2).sigmoid()

    def alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Levels with ``a + s = 1``."""
        return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()
