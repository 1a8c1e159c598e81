"""The label's encoder and decoder. Letters for shapes: B batch, K classes, (c, H, W) the slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from mtdiff_core import Decoder, Encoder
from mtdiff_core.codecs import zero_init

if TYPE_CHECKING:
    from mtdiff_core import Features, FeatureShapes, NoisySlot


class CodeBook(Encoder):
    """A fixed code of unit RMS for each class.

    Args:
        codes: ``(K, c, H, W)``.
    """

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, values: Tensor) -> Tensor:
        """Class indices ``(B,)`` to their codes ``(B, c, H, W)``."""
        return self.codes[values]

    def expected(self, distribution: Distribution) -> Tensor:
        """``sum_k p_k E(k)``."""
        return torch.einsum("bk,kchw->bchw", cast("Categorical", distribution).probs, self.codes)


class ClassHead(Decoder):
    """What the label's own code in ``z_t`` says, by Bayes' rule, plus what the network sees of everything else.

    Where noise hides everything else, ``log p(label | z_t)`` is the matched filter ``<evidence, E(k)>`` plus the log of
    the prior, up to a constant, and the network is not heard: the first draws of a sampler settle the label, and would
    otherwise come from a distribution that is off. So would they, by some percent, with a prior that is learnt by
    gradient steps: it is counted. The network's part is an MLP on the pooled features, plus what a linear map of the
    full-resolution features has of each code, by which it can take off what others in the slot add to the filter.
    """

    codes: Tensor
    counts: Tensor

    def __init__(self, features: FeatureShapes, hidden: int, dropout: float, codes: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features.pooled, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, len(codes)),
        )
        self.register_buffer("counts", torch.ones(len(codes), dtype=torch.int64))  # of each class so far, and one more
        self.to_slot = zero_init(nn.Conv2d(features.map[0], codes.shape[1], 1, bias=False))
        self.register_buffer("codes", codes)  # (K, c, H, W)
        self.code_norm = codes[0].numel() ** 0.5

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(label | z_t)``."""
        matched = torch.einsum("bchw,kchw->bk", self.to_slot(features.map), self.codes / self.code_norm)
        seen = slot.clarity[:, None] * (self.layers(features.pooled) + matched)  # (B, K)
        own = slot.evidence_of(self.codes) + self.counts.log()
        return Categorical(logits=seen.float() + own, validate_args=False)

    @torch.no_grad()
    def record(self, values: Tensor, present: Tensor) -> None:
        """Count the classes."""
        self.counts.scatter_add_(0, values, present.to(self.counts.dtype))
