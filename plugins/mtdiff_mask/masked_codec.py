"""The masked image's encoder and decoder. Letters for shapes: B batch, C channels of the picture, H W its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints
from torch.nn import functional

from mtdiff_core import Decoder, Encoder
from mtdiff_core.codecs import group_norm
from mtdiff_image.modality import log_mass_of_grey_levels

if TYPE_CHECKING:
    from mtdiff_core import Features, FeatureShapes, NoisySlot


class VisiblePart(Encoder):
    """The picture's own encoding, that is, its pixels, where it is visible; 0 elsewhere."""

    def forward(self, values: Tensor) -> Tensor:
        """Values ``(B, C + 1, H, W)`` to ``(B, C, H, W)``."""
        return torch.where(values[:, -1:] > 0.5, values[:, :-1], 0)

    def expected(self, distribution: Distribution) -> Tensor:
        """``p mu``: by how much each pixel is expected to be visible, times what it is expected to be then."""
        return distribution.mean[:, :-1]

    def reveals(self, values: Tensor) -> Tensor:
        """The mask."""
        return values[:, -1:] > 0.5


class MaskedGaussian(Distribution):
    """A picture that is visible in places: each pixel is visible with a probability of its own, and normal if it is.

    Over ``(C + 1, H, W)``, the mask m last:
    ``log p(x, m) = sum_hw log Bernoulli(m | p) + m sum_c log N(x_c | mu_c, sigma^2)``, a density over visible pixels
    and a probability of all else. A hidden pixel is 0.

    Args:
        logits: Log-odds of visibility, ``(B, 1, H, W)``.
        loc: ``mu``, ``(B, C, H, W)``.
        log_std: ``log sigma``, broadcast against ``loc``.
    """

    arg_constraints = {}  # noqa: RUF012 - Distribution declares it as an instance's; nothing is checked

    def __init__(self, logits: Tensor, loc: Tensor, log_std: Tensor) -> None:
        self.logits, self.loc, self.log_std = logits, loc, log_std.expand_as(loc)
        batch, channels, height, width = loc.shape
        super().__init__(torch.Size([batch]), torch.Size([channels + 1, height, width]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers: neither pixels nor mask are drawn as classes are."""
        return constraints.independent(constraints.real, 3)  # type: ignore[no-untyped-call]

    @property
    def mean(self) -> Tensor:
        """``p mu`` and ``p``."""
        visible = self.logits.sigmoid()
        return torch.cat([visible * self.loc, visible], dim=1)

    @property
    def mode(self) -> Tensor:
        """Visible where that is the likelier, and ``mu`` there."""
        visible = self.logits > 0
        return torch.cat([torch.where(visible, self.loc, 0), visible.to(self.loc.dtype)], dim=1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Masks, and pixels where they are visible."""
        leading = torch.Size(sample_shape)
        mask = torch.bernoulli(self.logits.sigmoid().expand(leading + self.logits.shape))
        pixels = self.loc + self.log_std.exp() * torch.randn(
            leading + self.loc.shape, dtype=self.loc.dtype, device=self.loc.device
        )
        return torch.cat([mask * pixels, mask], dim=-3)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(B,)``, in nats, for values ``(B, C + 1, H, W)``."""
        return self._log_prob(value, Normal.log_prob)

    def log_prob_of_grey_levels(self, value: Tensor) -> Tensor:
        """As :meth:`log_prob`, with visible pixels taken as 8-bit grey levels."""
        return self._log_prob(value, log_mass_of_grey_levels)

    def _log_prob(self, value: Tensor, of_pixels: Callable[[Normal, Tensor], Tensor]) -> Tensor:
        pixels, mask = value[..., :-1, :, :], value[..., -1:, :, :]
        log_mask = -functional.binary_cross_entropy_with_logits(
            self.logits.expand_as(mask), mask, reduction="none"
        )  # (B, 1, H, W)
        normal = Normal(self.loc, self.log_std.exp(), validate_args=False)
        log_pixels = of_pixels(normal, pixels).sum(dim=-3, keepdim=True)  # (B, 1, H, W)
        return (log_mask + mask * log_pixels).sum(dim=(-3, -2, -1))


class MaskedImageHead(Decoder):
    """Two convolutions of the full-resolution features: visibility and value of every pixel."""

    def __init__(self, features: FeatureShapes, channels: int) -> None:
        super().__init__()
        width = features.map[0]
        self.layers = nn.Sequential(
            group_norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels + 1, 3, padding=1),
        )
        # One width for all pixels, learned.
        self.log_std = nn.Parameter(torch.zeros(1))

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(masked image | z_t)`` over ``(C + 1, H, W)``."""
        head = cast("Tensor", self.layers(features.map)).float()  # (B, C + 1, H, W)
        return MaskedGaussian(logits=head[:, -1:], loc=head[:, :-1], log_std=self.log_std)
