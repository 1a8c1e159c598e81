"""The Frechet distance of normal distributions fitted to features (Heusel et al. 2017, arXiv 1706.08500, section 4).

All in float64: it is a small difference of large numbers. Letters for shapes: R resamples, N samples, F features.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Reference:
    """The normal distribution that distances are taken to.

    Attributes:
        mean: ``(F,)``.
        covariance: ``(F, F)``.
        root: Its symmetric square root.
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Reference:
        """Of features ``(N, F)``."""
        (mean,), (covariance,) = moments(features[None])
        values, axes = torch.linalg.eigh(covariance)
        return cls(mean, covariance, axes * values.clamp(min=0).sqrt() @ axes.T)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Means ``(R, F)`` and covariances ``(R, F, F)`` of features ``(R, N, F)``."""
    features = features.double()
    mean = features.mean(dim=1)
    centred = features - mean[:, None]
    return mean, centred.mT @ centred / (features.shape[1] - 1)


def frechet_distance(features: Tensor, reference: Reference) -> Tensor:
    """``|m - m_r|^2 + tr(C + C_r - 2 (C_r^(1/2) C C_r^(1/2))^(1/2))`` of features ``(R, N, F)``, ``(R,)``."""
    mean, covariance = moments(features)
    product = reference.root @ covariance @ reference.root
    # Symmetric in exact arithmetic: its eigenvalues are real, and not negative.
    root_trace = torch.linalg.eigvalsh((product + product.mT) / 2).clamp(min=0).sqrt().sum(dim=1)
    traces = covariance.diagonal(dim1=1, dim2=2).sum(dim=1) + reference.covariance.trace()
    distances: Tensor = ((mean - reference.mean).square().sum(dim=1) + traces - 2 * root_trace).clamp(min=0)
    return distances
