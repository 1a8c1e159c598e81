"""The paired image's decoder. Letters for shapes: B batch, F channels, C channels of the picture, H W its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional

from mtdiff_core import Decoder
from mtdiff_core.codecs import group_norm, zero_init

if TYPE_CHECKING:
    from mtdiff_core import Features, NoisySlot

# About two grey levels of 255. Without a floor the head grows ever surer of pixels that are easy, such as a flat
# border, and the gradient of the mean, which is divided by the variance, drowns all others.
LEAST_LOG_STD = -4.0


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is added; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            group_norm(channels),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, F, H, W)`` to the same."""
        return hidden + cast("Tensor", self.layers(hidden))


class ResidualGaussianDecoder(Decoder):
    """A normal distribution for every entry of a picture, with a mean and a width of its own.

    Starts as the standard normal.

    Args:
        features: Channels of the full-resolution features.
        hidden: Channels of the residual blocks.
        blocks: How many there are.
        channels: C.
    """

    def __init__(self, features: int, hidden: int, blocks: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(features, hidden, 3, padding=1),
            *(ResidualBlock(hidden) for _ in range(blocks)),
            group_norm(hidden),
            nn.SiLU(),
            zero_init(nn.Conv2d(hidden, 2 * channels, 3, padding=1)),
        )

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(paired image | z_t)`` over ``(C, H, W)``."""
        mean, raw = self.layers(features.map).float().chunk(2, dim=1)  # (B, C, H, W) each
        # Bounded below smoothly, so that a gradient leads back up; at raw = 0 the width is about 1.
        log_std = LEAST_LOG_STD + functional.softplus(raw - LEAST_LOG_STD)
        return Independent(Normal(mean, log_std.exp(), validate_args=False), 3, validate_args=False)
