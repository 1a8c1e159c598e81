"""The label's encoder and decoder. Letters for shapes: B batch, K classes, (c, H, W) the slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from mtdiff_core import Decoder, Encoder
from mtdiff_core.codecs import fixed_codes, zero_init

if TYPE_CHECKING:
    from mtdiff_core import Features, FeatureShapes, Shape


class CodeBook(Encoder):
    """A fixed code of unit RMS for each class."""

    codes: Tensor

    def __init__(self, classes: int, slot: Shape, seed: int) -> None:
        super().__init__()
        self.register_buffer("codes", fixed_codes(classes, slot, seed))  # (K, c, H, W)

    def forward(self, values: Tensor) -> Tensor:
        """Class indices ``(B,)`` to their codes ``(B, c, H, W)``."""
        return self.codes[values]

    def expected(self, distribution: Distribution) -> Tensor:
        """``sum_k p_k E(k)``."""
        return torch.einsum("bk,kchw->bchw", cast("Categorical", distribution).probs, self.codes)


class ClassHead(Decoder):
    """An MLP on the pooled features, plus what a linear map of the full-resolution features has of each code.

    Where noise hides everything else, ``log p(label | z_t)`` is the matched filter ``<z_t, E(k)>`` up to a factor and a
    constant. Pooled features cannot hold it, and without it the first draws of a sampler, which settle the label, come
    from a distribution that is off.
    """

    codes: Tensor

    def __init__(self, features: FeatureShapes, hidden: int, dropout: float, codes: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features.pooled, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, len(codes)),
        )
        self.to_slot = zero_init(nn.Conv2d(features.map[0], codes.shape[1], 1))
        self.register_buffer("codes", codes / codes[0].numel() ** 0.5, persistent=False)  # (K, c, H, W)

    def forward(self, features: Features) -> Distribution:
        """``p(label | z_t)``."""
        matched = torch.einsum("bchw,kchw->bk", self.to_slot(features.map), self.codes)
        return Categorical(logits=(self.layers(features.pooled) + matched).float(), validate_args=False)
