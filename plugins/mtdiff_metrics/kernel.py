"""The kernel distance (Binkowski et al. 2018, arXiv 1801.01401): the unbiased squared maximum mean discrepancy.

Letters for shapes: N and M samples, F features.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

CHUNK = 2048


def kernel_distance(features: Tensor, reference: Tensor) -> tuple[float, Tensor]:
    """The distance of features ``(N, F)`` to others ``(M, F)``, and its jackknife pseudo-values ``(N,)``.

    The mean of the pseudo-values is the distance, and they vary as single samples make it vary. The reference is taken
    as it is.
    """
    count, others = len(features), len(reference)
    own, across = kernel_sums(features, features, True), kernel_sums(features, reference, False) / others
    among = kernel_sums(reference, reference, True).sum() / (others * (others - 1))
    distance = own.sum() / (count * (count - 1)) - 2 * across.mean() + among
    without = (own.sum() - 2 * own) / ((count - 1) * (count - 2)) - 2 * (across.sum() - across) / (count - 1) + among
    return float(distance), count * distance - (count - 1) * without


def kernel_sums(features: Tensor, others: Tensor, same: bool) -> Tensor:
    """For each of ``(N, F)`` the sum of ``(<x, y> / F + 1)^3`` over ``(M, F)``; if they are the same, over others."""
    kernel = partial(poly_kernel, degree=3, gamma=None, coef=1.0)
    features, others = features.double(), others.double()
    sums = torch.zeros(len(features)).double()
    for first in range(0, len(features), CHUNK):
        for part in torch.split(others, CHUNK):
            sums[first : first + CHUNK] += kernel(features[first : first + CHUNK], part).sum(dim=1)
    if same:
        sums -= (features.square().mean(dim=1) + 1) ** 3
    return sums
