"""What looks at pictures: gives features, and where it can, classes.

Letters for shapes: N samples, B batch, F features, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import UserError
from mtdiff_metrics.data import Pictures, held_out_pictures, pictures_of

if TYPE_CHECKING:
    from mtdiff_core import RealData, Split

AT_ONCE = 256


class Extractor(ABC):
    """Features of pictures.

    Attributes:
        name: What figures say that they depend on; another network, or other weights, have another one.
    """

    name: str

    @abstractmethod
    def features(self, pictures: Tensor) -> Tensor:
        """Of pictures ``(B, C, H, W)``, float32 0..1, float32 ``(B, F)`` on the host."""

    @abstractmethod
    def probabilities(self, pictures: Tensor) -> Tensor | None:
        """Of its first classes, float32 ``(B, K)`` on the host; None if it knows none."""


def extractor_of(features: str, network: str, weights: str, modality: str, real: RealData) -> Extractor:
    """The extractor that a metric's options name, for pictures of one modality; the same for all metrics.

    Raises:
        UserError: There is no such network, or its weights cannot be read or do not fit.
    """
    if features == "judge":
        from mtdiff_metrics.judge import judge_of

        return judge_of(real, modality)
    device = real.workshop.device

    def make() -> Extractor:
        from mtdiff_metrics.inception import Inception
        from mtdiff_metrics.published import Published

        return Inception(weights, device) if features == "inception" else Published(features, network, weights, device)

    return real.once(f"metrics: {features} {network} {weights}", make)


def split_features(extractor: Extractor, real: RealData, modality: str, split: Split) -> Tensor:
    """Features of a split's pictures, float32 ``(N, F)``."""

    def extract() -> Tensor:
        pictures = pictures_of(real, modality, split)
        advance = real.workshop.progress(f"features of {modality} in {split}", len(pictures))
        parts = []
        for part in parts_of(pictures):
            parts.append(extractor.features(part))
            advance(len(part))
        return torch.cat(parts)

    return real.once(f"metrics: features of {modality} in {split} by {extractor.name}", extract)


def held_out_features(extractor: Extractor, real: RealData, modality: str) -> Tensor | None:
    """Features of the test split's pictures, None if there are none."""
    return None if held_out_pictures(real, modality) is None else split_features(extractor, real, modality, "test")


def parts_of(pictures: Pictures) -> Iterator[Tensor]:
    """Pictures in parts that are small enough for a network, float32 0..1."""
    return (part.float() / 255 for part in torch.split(pictures.pixels, AT_ONCE))


def finite(features: Tensor, where: str) -> Tensor:
    """Features as they are.

    Raises:
        UserError: They are not finite.
    """
    if not features.isfinite().all():
        raise UserError("gives features that are not finite", where)
    return features
