"""The label's encoder and decoder. Letters for shapes: B batch, K classes, (c, H, W) the slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from mtdiff_core import Decoder, Encoder
from mtdiff_core.codecs import fixed_codes

if TYPE_CHECKING:
    from mtdiff_core import Features, Shape


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
    """An MLP on the pooled features."""

    def __init__(self, features: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(features, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, features: Features) -> Distribution:
        """``p(label | z_t)``."""
        return Categorical(logits=self.layers(features.pooled).float(), validate_args=False)
