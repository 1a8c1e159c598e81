"""Nearest neighbours in bounded memory. Letters for shapes: N and M samples, F features."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def nearest(values: Tensor, others: Tensor) -> Tensor:
    """Distance of each of float32 ``(N, F)`` to the nearest of ``(M, F)``, ``(N,)``; of uint8 pixels, in 0..1."""
    found = torch.full((len(values),), torch.inf)
    for part in torch.split(others, CHUNK):
        found = torch.minimum(found, distances(values, _in_unit(part)).amin(dim=1))
    return found


def radii(features: Tensor, k: int) -> Tensor:
    """Distance of each of ``(N, F)`` to the ``k``-th nearest of the others, ``(N,)``."""
    return torch.cat(
        # Its nearest is itself.
        [distances(part, features).kthvalue(k + 1, dim=1).values for part in torch.split(features, CHUNK)]
    )


def inside(features: Tensor, others: Tensor, radius: Tensor) -> Tensor:
    """Whether each of ``(N, F)`` is within the radius ``(M,)`` of at least one of ``(M, F)``, bool ``(N,)``."""
    return torch.cat([(distances(part, others) <= radius).any(dim=1) for part in torch.split(features, CHUNK)])


def distances(features: Tensor, others: Tensor) -> Tensor:
    """Euclidean, ``(N, M)``."""
    return torch.cdist(features, others)


def _in_unit(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.float() / 255
