"""PCA whitening. Letters for shapes: N samples, F features, D dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import attrs
import torch
from torch import Tensor

from mtdiff_core import UserError

# Components with less than this share of the largest one's variance are rounding errors of the network: they are
# scaled as if they had so much, in place of being blown up to unit variance.
FLOOR = 1e-6


@attrs.frozen(kw_only=True, eq=False)
class Whitening:
    """Features to their principal components, each scaled to unit variance.

    Attributes:
        mean: Mean of the features, float32 ``(F,)``.
        projection: float32 ``(F, D)``.
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, features: Tensor, dimensions: int) -> Self:
        """The whitening under which features ``(N, F)`` have mean 0 and covariance 1 (with 1/N).

        Raises:
            UserError: The features have fewer dimensions, or there are too few samples.
        """
        count, width = features.shape
        if dimensions > width:
            raise UserError(f"the features have {width} dimensions only, not {dimensions}", "dimensions")
        if count <= dimensions:
            raise UserError(
                f"{count} samples cannot say how {dimensions} dimensions vary",
                "dimensions",
                f"use fewer than {count}, or more data",
            )
        mean = features.double().mean(dim=0)
        centred = features.double() - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / count)  # ascending; columns are axes
        variances, axes = variances.flip(0)[:dimensions], axes.flip(1)[:, :dimensions]
        if not variances[0] > 0:
            raise UserError("all samples have the same features", hint="the pictures, or the network, are at fault")
        # An axis has no sign of its own; its largest entry is made positive, so that equal data gives equal axes.
        largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
        projection = axes * largest.sign() / variances.clamp(min=FLOOR * float(variances[0])).sqrt()
        return cls(mean=mean.float(), projection=projection.float())

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``(N, F)`` to white vectors, float32 ``(N, D)``."""
        return (features.float() - self.mean) @ self.projection

    def state(self) -> dict[str, Tensor]:
        """As tensors by name, to be kept with a model."""
        return {"whitening.mean": self.mean, "whitening.projection": self.projection}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Undo :meth:`state`."""
        return cls(mean=state["whitening.mean"], projection=state["whitening.projection"])
