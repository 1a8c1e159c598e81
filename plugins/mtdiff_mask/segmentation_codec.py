"""The segmentation's encoder and decoder. Letters for shapes: B batch, K classes, (c, H, W) the slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent
from torch.nn import functional

from mtdiff_core import Decoder, Encoder, Features, NoisySlot
from mtdiff_core.codecs import group_norm

ROUNDS = 1000


def class_codes(classes: int, channels: int, seed: int) -> Tensor:
    """Well separated codes, of unit RMS together: levels evenly apart in one channel, points of a sphere in more.

    Args:
        classes: K.
        channels: c.
        seed: Names the set of codes: which class has which.

    Returns:
        float32, ``(K, c)``.
    """
    random = torch.Generator().manual_seed(seed)
    if channels == 1:
        levels = torch.linspace(-1, 1, classes, dtype=torch.float64)
        codes = levels[torch.randperm(classes, generator=random), None]
    else:
        codes = _spread(torch.randn(classes, channels, generator=random, dtype=torch.float64))
    return (codes / codes.square().mean().sqrt()).float()


def _spread(points: Tensor) -> Tensor:
    """Points ``(K, c)`` moved over the unit sphere until the nearest are about as far apart as can be.

    Each moves away from its neighbours, of which the nearest counts the more, the longer it goes on.
    """
    points = functional.normalize(points)
    for done in torch.linspace(0, 1, ROUNDS):
        nearness = (points @ points.T).fill_diagonal_(-torch.inf)  # cosines, (K, K)
        push = (nearness * 1000**done).softmax(dim=1) @ points
        points = functional.normalize(points - 0.3 * 0.01**done * push)
    return points


class ClassMapEncoder(Encoder):
    """A fixed code for each class, at each pixel; 0 at ignored ones.

    Args:
        codes: ``(K, c)``.
        ignore: Value of ignored pixels.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, ignore: int) -> None:
        super().__init__()
        self.ignore = ignore
        self.register_buffer("codes", codes)

    def forward(self, values: Tensor) -> Tensor:
        """Classes ``(B, H, W)`` to ``(B, c, H, W)``."""
        counts = values != self.ignore
        codes = self.codes[torch.where(counts, values, 0)]  # (B, H, W, c)
        return torch.where(counts[..., None], codes, 0).movedim(-1, 1)

    def expected(self, distribution: Distribution) -> Tensor:
        """``sum_k p_k E(k)`` at each pixel."""
        return torch.einsum("bhwk,kc->bchw", cast("ClassMap", distribution).probabilities, self.codes)


class ClassMap(Independent[Categorical]):
    """A class for each pixel, independently; ignored pixels count for nothing.

    Args:
        logits: ``(B, H, W, K)``.
        ignore: Value of ignored pixels.
    """

    def __init__(self, logits: Tensor, ignore: int) -> None:
        super().__init__(Categorical(logits=logits, validate_args=False), 2, validate_args=False)
        self.ignore = ignore

    @property
    def probabilities(self) -> Tensor:
        """Of each class at each pixel, ``(B, H, W, K)``.

        The logits are normalised; a softmax over a handful of entries takes ten times as long as their exponentials.
        """
        return self.base_dist.logits.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Classes ``(*sample_shape, B, H, W)``, by one uniform number for each; torch's own draw takes K of them."""
        cumulative = self.probabilities.cumsum(dim=-1)  # (B, H, W, K)
        shape = (*sample_shape, *cumulative.shape[:-1], 1)
        uniform = 1 - torch.rand(shape, dtype=cumulative.dtype, device=cumulative.device)  # above 0
        return (cumulative < uniform * cumulative[..., -1:]).sum(dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(B,)``, in nats, for classes ``(B, H, W)``."""
        counts = value != self.ignore
        log_prob = self.base_dist.log_prob(torch.where(counts, value, 0))  # type: ignore[no-untyped-call]
        return torch.where(counts, log_prob, 0).sum(dim=(-2, -1))


class ClassMapHead(Decoder):
    """What a pixel's own code in ``z_t`` says, by Bayes' rule, plus what two convolutions see of everything else.

    A pixel's ``z = c_t E(k) + s_t eps`` alone says ``log p(k | z) = (c_t <z, E(k)> - c_t^2 |E(k)|^2 / 2) / s_t^2``, up
    to a constant.

    Args:
        features: Channels of the full-resolution features.
        hidden: Channels of the hidden layer.
        codes: ``(K, c)``.
        ignore: Value of ignored pixels; where it is a class, it is never predicted.
    """

    filters: Tensor
    never: Tensor

    def __init__(self, features: int, hidden: int, codes: Tensor, ignore: int) -> None:
        super().__init__()
        classes = len(codes)
        self.ignore = ignore
        self.layers = nn.Sequential(
            group_norm(features),
            nn.SiLU(),
            nn.Conv2d(features, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, classes, 3, padding=1),
        )
        self.register_buffer("filters", torch.cat([codes, -codes.square() / 2], dim=1))  # (K, 2 c)
        self.register_buffer("never", torch.arange(classes)[:, None, None] == ignore, persistent=False)  # (K, 1, 1)

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(segmentation | z_t)`` over ``(H, W)``."""
        sharpness = (slot.coefficient**2 / slot.variance).expand_as(slot.evidence)
        own = torch.einsum("bchw,kc->bkhw", torch.cat([slot.evidence, sharpness], dim=1), self.filters)
        logits = (self.layers(features.map).float() + own.float()).masked_fill(self.never, -torch.inf)  # (B, K, H, W)
        return ClassMap(logits.movedim(1, -1), self.ignore)
