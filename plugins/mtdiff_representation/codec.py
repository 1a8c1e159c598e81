"""The representation's encoder and decoder.

Letters for shapes: B batch, D dimensions of the vector, (c, H, W) the slot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mtdiff_core import Decoder
from mtdiff_core.codecs import zero_init
from mtdiff_representation.mixture import Mixture

if TYPE_CHECKING:
    from mtdiff_core import Features, FeatureShapes, NoisySlot, Shape

# What the network sees clearly has standard deviations within e^-3 and e^3 of the vector's own.
WIDEST_LOG_STD = 3.0
FIRST_LOG_STD = 1.0
LEAST_PRECISION = 1e-8  # for a quotient where nothing is seen


def patch_codes(count: int, slot: Shape) -> Tensor:
    """Orthogonal codes of unit RMS, each a rectangle of its own: ``(count, c, H, W)``, count at most ``c H W``.

    A convolutional network reads such a code where it lies, where one that is spread over all pixels would first have
    to be multiplied by its pattern.
    """
    channels, height, width = slot
    each = math.ceil(count / channels)  # codes in one channel
    rows = max(min(height, math.ceil(each**0.5)), math.ceil(each / width))
    columns = math.ceil(each / rows)
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    cell = row[:, None] * columns + column  # (H, W)
    inside = torch.arange(each)[:, None, None] == cell  # (each, H, W)
    amplitude = (inside.shape[1:].numel() * channels / inside.sum(dim=(1, 2), keepdim=True)).sqrt()
    codes = torch.zeros(channels, each, *slot)
    for channel in range(channels):
        codes[channel, :, channel] = inside * amplitude
    return codes.transpose(0, 1).flatten(0, 1)[:count]  # channel by channel in turn, so that all have some


class VectorHead(Decoder):
    """What the slot itself says and what the network sees, put together with what vectors look like, by Bayes' rule.

    The prior is a mixture fitted to the training vectors, so that vectors decided first, before anything else is
    visible, lie as those do: a network would need far more training for that than for all else.
    The slot's part is the likelihood of ``r_d``: the codes are orthogonal, so that dimensions do not mix, and
    ``z = c_t sum_d r_d code_d / sqrt(D) + noise`` is Gaussian in each. The network's part is a normal likelihood of
    each dimension, whose mean and width both depend on the features, and which is not heard where noise hides all
    else. Its mean is an MLP on the pooled features, plus what a linear map of the full-resolution features has of each
    code, by which it can take off what others in the slot add.

    Args:
        features: What the backbone gives.
        hidden: Width of the MLP's hidden layers.
        dropout: Dropout of what the MLP reads.
        codes: The encoder's codes, ``(D, c, H, W)``.
        prior: What is known of a vector at the highest noise.
    """

    codes: Tensor
    prior_weight: Tensor
    prior_mean: Tensor
    prior_variance: Tensor

    def __init__(self, features: FeatureShapes, hidden: int, dropout: float, codes: Tensor, prior: Mixture) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features.pooled, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * len(codes)),
        )
        last = cast("nn.Linear", self.layers[-1])
        nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor([0.0, FIRST_LOG_STD]).repeat_interleave(len(codes))  # hardly heard at first
        self.to_slot = zero_init(nn.Conv2d(features.map[0], codes.shape[1], 1, bias=False))
        self.register_buffer("codes", codes)
        self.code_norm = codes[0].numel() ** 0.5
        self.register_buffer("prior_weight", prior.weight)
        self.register_buffer("prior_mean", prior.mean)
        self.register_buffer("prior_variance", prior.variance)

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(representation | z_t)`` over ``(D,)``."""
        own_information, own_precision = self._likelihood(slot)
        mean, log_std = self.layers(features.pooled).float().chunk(2, dim=1)  # (B, D) each
        mean = mean + torch.einsum("bchw,dchw->bd", self.to_slot(features.map).float(), self.codes / self.code_norm)
        precision = slot.clarity[:, None].float() * (-2 * WIDEST_LOG_STD * torch.tanh(log_std / WIDEST_LOG_STD)).exp()
        both = precision + own_precision
        estimate = (precision * mean + own_information) / both.clamp(min=LEAST_PRECISION)
        return Mixture(self.prior_weight, self.prior_mean, self.prior_variance).given(both, estimate)

    def _likelihood(self, slot: NoisySlot) -> tuple[Tensor, Tensor]:
        """Of each dimension under ``z_t`` alone: precision times mean, and precision, ``(B, D)`` each."""
        scaled = self.codes / len(self.codes) ** 0.5  # (D, c, H, W)
        sharpness = (slot.coefficient**2 / slot.variance).float().flatten(1)  # (B, c)
        # A product and a sum, which autocast leaves alone as it does not a contraction
        precision = (sharpness[:, None] * scaled.square().sum(dim=(2, 3))).sum(dim=2)  # (B, D)
        return slot.evidence_of(scaled), precision
