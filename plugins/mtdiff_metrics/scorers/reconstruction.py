"""A generated picture against its truth. Letters for shapes: N samples, B batch, C channels, H W height and width."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from mtdiff_core import Figure, Scorer
from mtdiff_core.intervals import Interval, mean_interval
from mtdiff_metrics.data import checked, enough, pictures_of
from mtdiff_metrics.rows import Rows

if TYPE_CHECKING:
    from mtdiff_core import Better, RealData, ScoredBatch
    from mtdiff_metrics.perceptual import PerceptualDistance

MEAN = "mean training picture"
BEST_DB = 100.0  # a difference of a 40th of a grey level: as good as none


class PairScorer(Scorer):
    """A number for each generated picture and its truth, and the mean of all.

    Args:
        modality: The picture's name.
        alike: Known pictures of the same shape, which may be left as they are.
        real: The real data.
    """

    name: str
    better: Better
    unit = ""
    features = ""

    def __init__(self, modality: str, alike: tuple[str, ...], real: RealData) -> None:
        self.modality, self.alike, self.real = modality, alike, real
        self._kept: dict[str, Rows] = {}

    @abstractmethod
    def compare(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """A number for each pair, float32 0..1 ``(B, C, H, W)`` each; ``(B,)``."""

    def update(self, batch: ScoredBatch) -> None:
        """Compare those that have a true picture; and with it the trivial ones."""
        if self.modality not in batch.truth:
            return
        present = batch.present[self.modality]
        truth = batch.truth[self.modality][present]
        if not len(truth):
            return
        rivals: dict[str, Tensor] = {
            "": checked(batch.values[self.modality][present], self.modality),
            MEAN: mean_picture(self.real, self.modality).expand_as(truth),
            **{f"{name} as it is": batch.values[name][present] for name in self.alike},
        }
        for name, pictures in rivals.items():
            self._kept.setdefault(name, Rows()).add(self.compare(pictures, truth))

    def figures(self) -> list[Figure]:
        """One."""
        kept = {name: rows.all() for name, rows in self._kept.items()}
        own = kept.pop("", torch.empty(0))
        enough(len(own), 2, self.name, "too few of them have a true picture")
        value, interval = self.summary(own)
        return [
            Figure(
                name=self.name,
                of=(self.modality,),
                value=value,
                interval=interval,
                n=len(own),
                better=self.better,
                baselines={name: self.summary(values)[0] for name, values in kept.items()},
                features=self.features,
                unit=self.unit,
            )
        ]

    def summary(self, values: Tensor) -> tuple[float, Interval]:
        """The figure of all numbers ``(N,)``, and its interval."""
        return float(values.double().mean()), mean_interval(values)


def mean_picture(real: RealData, modality: str) -> Tensor:
    """Mean of the training pictures, float32 0..1, ``(C, H, W)``."""

    def compute() -> Tensor:
        pixels = pictures_of(real, modality, "train").pixels
        total = sum(part.sum(dim=0, dtype=torch.int64) for part in torch.split(pixels, 1024))
        return (torch.as_tensor(total).double() / (255 * len(pixels))).float()

    return real.once(f"metrics: mean {modality}", compute)


class PsnrScorer(PairScorer):
    """Peak signal-to-noise ratio, of the mean squared error of all pictures: one without error would decide a mean."""

    name, better, unit = "psnr", "higher", "dB"

    def compare(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """Mean squared errors."""
        return (pictures - truth).square().flatten(1).mean(dim=1)

    def summary(self, values: Tensor) -> tuple[float, Interval]:
        """In decibels, 100 at most."""
        low, high = mean_interval(values)
        return decibels(float(values.double().mean())), (decibels(high), decibels(low))


def decibels(error: float) -> float:
    """Of a mean squared error of values in 0..1."""
    return min(BEST_DB, -10 * math.log10(error)) if error > 0 else BEST_DB


class SsimScorer(PairScorer):
    """Structural similarity (Wang et al. 2004), with a Gaussian window of 11 pixels; borders are mirrored."""

    name, better = "ssim", "higher"

    def compare(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """By torchmetrics."""
        # One picture has no dimension of its own left.
        return torch.as_tensor(
            structural_similarity_index_measure(pictures, truth, data_range=1.0, reduction="none")
        ).reshape(-1)


class LpipsScorer(PairScorer):
    """Learned perceptual distance."""

    name, better = "lpips", "lower"

    def __init__(self, modality: str, alike: tuple[str, ...], real: RealData, distance: PerceptualDistance) -> None:
        super().__init__(modality, alike, real)
        self.distance, self.features = distance, distance.name

    def compare(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """By torchmetrics' network."""
        return self.distance(pictures, truth)


def same_shape(shapes: Mapping[str, tuple[int, ...]], modality: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of ``names`` have natural values of the shape of ``modality``'s."""
    return tuple(name for name in names if shapes[name] == shapes[modality])
