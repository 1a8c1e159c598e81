"""The aggregated forward process, exact for any Gaussian schedule (method section 2).

Letters for shapes: B batch, C channels of the diffusion space, c channels of one modality's slot, H W height and
width. Levels carry one entry per channel, because blocks may differ in their noise (method section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.transfer import to_device

if TYPE_CHECKING:
    from mtdiff_core.interfaces.aggregator import Aggregator, Layout
    from mtdiff_core.schedule import NoiseSchedule

Encodings = Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class NoiseLevel:
    """All that the process says about one time per sample.

    Attributes:
        log_snr: The schedule's own log-SNR ``l_t``, ``(B,)``.
        alpha: Signal level ``a_t`` of each channel, ``(B, C, 1, 1)``.
        sigma: Noise level ``s_t`` of each channel, ``(B, C, 1, 1)``.
        coefficient: ``c_t^i`` for each modality, in the channels of its slot, ``(B, c, 1, 1)``.
    """

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor
    coefficient: Mapping[str, Tensor]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NoiseLevel:
        """The same level elsewhere, or at another precision."""
        return NoiseLevel(
            log_snr=to_device(self.log_snr, device, dtype),
            alpha=to_device(self.alpha, device, dtype),
            sigma=to_device(self.sigma, device, dtype),
            coefficient={name: to_device(c, device, dtype) for name, c in self.coefficient.items()},
        )

    def expand(self, row: int, batch: int) -> NoiseLevel:
        """The level of one row, for every sample of a batch."""

        def repeat(x: Tensor) -> Tensor:
            return x[row : row + 1].expand(batch, *x.shape[1:])

        return NoiseLevel(
            log_snr=repeat(self.log_snr).contiguous(),  # what a compiled network reads has one layout
            alpha=repeat(self.alpha),
            sigma=repeat(self.sigma),
            coefficient={name: repeat(c) for name, c in self.coefficient.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A diagonal Gaussian in the diffusion space.

    Attributes:
        mean: ``(B, C, H, W)``.
        std: ``(B, C, 1, 1)``; 0 where the value is certain.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise`` for standard normal ``noise``, ``(B, C, H, W)``."""
        return self.mean + self.std * noise


@attrs.frozen(kw_only=True)
class ForwardProcess:
    """``q(z_t | X)`` and all that follows from it.

    Attributes:
        schedule: Log-SNR over time.
        aggregator: The coefficients ``c_t^i``.
        layout: The space, and who writes where.
        anchor: Name of the anchor, whose coefficient is ``a_t``.
        options: The aggregator's options for every modality but the anchor.
    """

    schedule: NoiseSchedule
    aggregator: Aggregator
    layout: Layout
    anchor: str
    options: Mapping[str, Any]

    def level(self, t: Tensor) -> NoiseLevel:
        """The levels at times ``t`` in [0, 1], shape ``(B,)``, computed in float64."""
        return self.level_at(self.schedule.log_snr(t.double()))

    def level_at(self, log_snr: Tensor) -> NoiseLevel:
        """The levels where the schedule's log-SNR is this, ``(B,)``, float64."""
        per_channel = log_snr[:, None] + self.log_snr_shift().to(log_snr.device)  # (B, C)
        alpha, sigma = self.schedule.alpha_sigma(per_channel[:, :, None, None])  # (B, C, 1, 1)
        coefficient = {}
        for name in self.layout.slots:
            own = self.layout.channels(name)
            a, s = alpha[:, own], sigma[:, own]
            is_anchor = name == self.anchor
            coefficient[name] = a if is_anchor else self.aggregator.coefficient(self.options[name], a, s)
        return NoiseLevel(log_snr=log_snr, alpha=alpha, sigma=sigma, coefficient=coefficient)

    def log_snr_shift(self) -> Tensor:
        """Shift of the log-SNR per channel, ``(C,)``, float64."""
        shift = torch.zeros(self.layout.space[0], dtype=torch.float64)
        for name, options in self.options.items():
            shift[self.layout.channels(name)] += self.aggregator.log_snr_shift(options)
        return shift

    def mean(self, encodings: Encodings, level: NoiseLevel) -> Tensor:
        """``m_t(X) = sum_i c_t^i e_i``, shape ``(B, C, H, W)``; modalities left out count as absent."""
        first = next(iter(encodings.values()))
        mean = first.new_zeros(len(first), *self.layout.space)
        for name, encoding in encodings.items():
            mean[:, self.layout.channels(name)].add_(level.coefficient[name] * encoding)
        return mean

    def variances_around(self, level: NoiseLevel) -> dict[str, Tensor]:
        """``s_t^2 + sum_j (c_t^j)^2`` over the other modalities in each one's channels, ``(B, c, 1, 1)`` by name."""
        of_noise, signals = level.sigma**2, {name: c**2 for name, c in level.coefficient.items()}
        variances = {}
        for name, (start, stop) in self.layout.slots.items():
            variance = of_noise[:, start:stop].clone()
            for other, (first, last) in self.layout.slots.items():
                low, high = max(start, first), min(stop, last)  # where both write
                if other != name and low < high:
                    variance[:, low - start : high - start].add_(signals[other][:, low - first : high - first])
            variances[name] = variance
        return variances

    def marginal(self, encodings: Encodings, level: NoiseLevel) -> Gaussian:
        """``q(z_t | X) = N(m_t, s_t^2 I)``."""
        return Gaussian(mean=self.mean(encodings, level), std=level.sigma)

    def transition(self, z_s: Tensor, encodings: Encodings, earlier: NoiseLevel, later: NoiseLevel) -> Gaussian:
        """``q(z_t | z_s, X) = N(a_{t|s} (z_s - m_s) + m_t, s_{t|s}^2 I)`` for ``s < t``."""
        alpha_ts, sigma_ts = relative_levels(earlier, later)
        mean = alpha_ts * (z_s - self.mean(encodings, earlier)) + self.mean(encodings, later)
        return Gaussian(mean=mean, std=sigma_ts)

    def posterior(self, z_t: Tensor, encodings: Encodings, earlier: NoiseLevel, later: NoiseLevel) -> Gaussian:
        """``q(z_s | z_t, X) = N(m_s + (a_{t|s} s_s^2 / s_t^2) (z_t - m_t), s_s^2 s_{t|s}^2 / s_t^2 I)``, ``s < t``."""
        gain = posterior_gain(earlier, later)
        mean = self.mean(encodings, earlier) + gain * (z_t - self.mean(encodings, later))
        return Gaussian(mean=mean, std=posterior_std(earlier, later))

    def paper_weights(self, earlier: NoiseLevel, later: NoiseLevel) -> dict[str, Tensor]:
        """The paper's ``w_t^i = c_t^i / a_{t|s} - c_s^i``, ``(B, c, 1, 1)`` each (method section 1)."""
        alpha_ts, _ = relative_levels(earlier, later)
        return {
            name: c_t / alpha_ts[:, self.layout.channels(name)] - earlier.coefficient[name]
            for name, c_t in later.coefficient.items()
        }


def relative_levels(earlier: NoiseLevel, later: NoiseLevel) -> tuple[Tensor, Tensor]:
    """``a_{t|s} = a_t / a_s`` and ``s_{t|s} = sqrt(s_t^2 - a_{t|s}^2 s_s^2)``, ``(B, C, 1, 1)`` each."""
    alpha_ts = later.alpha / earlier.alpha
    # = s_t^2 (1 - SNR_t / SNR_s); the clamp only takes rounding away
    variance = later.sigma**2 - alpha_ts**2 * earlier.sigma**2
    return alpha_ts, variance.clamp(min=0).sqrt()


def posterior_gain(earlier: NoiseLevel, later: NoiseLevel) -> Tensor:
    """``a_{t|s} s_s^2 / s_t^2``, how far the mean of ``q(z_s | z_t, X)`` follows ``z_t``, ``(B, C, 1, 1)``."""
    alpha_ts, _ = relative_levels(earlier, later)
    return alpha_ts * earlier.sigma**2 / later.sigma**2


def posterior_std(earlier: NoiseLevel, later: NoiseLevel) -> Tensor:
    """``s~_t = s_s s_{t|s} / s_t``, the standard deviation of ``q(z_s | z_t, X)``, ``(B, C, 1, 1)``."""
    _, sigma_ts = relative_levels(earlier, later)
    return earlier.sigma * sigma_ts / later.sigma
