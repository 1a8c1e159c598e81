"""Generated pictures against the training split's: they keep features, not pictures.

Letters for shapes: N samples, F features, K classes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import Figure, Scorer
from mtdiff_core.intervals import (
    FEWEST_FOR_MEDIAN,
    RESAMPLES,
    function_of_mean_interval,
    mean_interval,
    median_interval,
    share_interval,
    statistic_interval,
)
from mtdiff_metrics.data import checked, enough, held_out_pictures, pictures_of
from mtdiff_metrics.extractors import held_out_features, parts_of, split_features
from mtdiff_metrics.frechet import Reference, frechet_distance
from mtdiff_metrics.kernel import kernel_distance
from mtdiff_metrics.neighbours import inside, nearest, radii
from mtdiff_metrics.rows import Rows

if TYPE_CHECKING:
    from mtdiff_core import RealData, ScoredBatch
    from mtdiff_metrics.extractors import Extractor

AT_MOST = 10_000  # samples that are compared each with each
# A distance in many features takes about a second for each resample.
MANY_FEATURES, RESAMPLES_OF_MANY = 512, 40


def of_test(count: int) -> str:
    """The baseline's name. Its n is told: some figures depend on it."""
    return f"test split, n = {count}"


class FeatureScorer(Scorer):
    """Keeps the features of a modality's generated pictures.

    Args:
        extractor: Gives features.
        modality: The modality.
        real: The real data.
    """

    def __init__(self, extractor: Extractor, modality: str, real: RealData) -> None:
        self.extractor, self.modality, self.real = extractor, modality, real
        self._kept = Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Keep features."""
        self._kept.add(self.seen(checked(batch.values[self.modality], self.modality)))

    def seen(self, pictures: Tensor) -> Tensor:
        """What is kept of pictures, ``(B, ...)``."""
        return self.extractor.features(pictures)

    def rows(self) -> Tensor:
        """All that was kept, ``(N, ...)``."""
        return self._kept.all() if len(self._kept) else torch.empty(0, 1)

    @abstractmethod
    def figures(self) -> list[Figure]:
        """The figures."""


class FrechetScorer(FeatureScorer):
    """The Frechet distance."""

    def figures(self) -> list[Figure]:
        """One, of the fit to all features; of few samples it is larger than of many."""
        features = self.rows()
        count, width = features.shape
        reason = f"its covariance of {width} features needs more samples than features"
        enough(count, width + 1, "the Frechet distance", reason)
        real = split_features(self.extractor, self.real, self.modality, "train")
        enough(len(real), width + 1, "the Frechet distance to a training split", reason)
        reference = Reference.fit(real)
        resamples = RESAMPLES_OF_MANY if width > MANY_FEATURES else RESAMPLES
        test = held_out_features(self.extractor, self.real, self.modality)
        baselines = {}
        if test is not None and len(test) > width:
            baselines = {of_test(len(test)): float(frechet_distance(test[None], reference))}
        return [
            Figure(
                name="frechet_distance",
                of=(self.modality,),
                value=float(frechet_distance(features[None], reference)),
                interval=statistic_interval(
                    lambda rows: frechet_distance(rows, reference), features, least=0.0, resamples=resamples
                ),
                n=count,
                better="lower",
                baselines=baselines,
                features=self.extractor.name,
            )
        ]


class KernelScorer(FeatureScorer):
    """The kernel distance."""

    def figures(self) -> list[Figure]:
        """One. It is unbiased, so that it can be below 0 where there is no difference."""
        features = at_most(self.rows())
        enough(len(features), 3, "the kernel distance", "it is made of pairs")
        reference = at_most(split_features(self.extractor, self.real, self.modality, "train"))
        enough(len(reference), 2, "the kernel distance to a training split", "it is made of pairs")
        value, single = kernel_distance(features, reference)
        test = held_out_features(self.extractor, self.real, self.modality)
        baselines = {}
        if test is not None and len(test) > 2:
            baselines = {of_test(len(at_most(test))): kernel_distance(at_most(test), reference)[0]}
        return [
            Figure(
                name="kernel_distance",
                of=(self.modality,),
                value=value,
                interval=mean_interval(single),
                n=len(features),
                better="lower",
                baselines=baselines,
                features=self.extractor.name,
            )
        ]


class InceptionScorer(FeatureScorer):
    """The inception score (Salimans et al. 2016, arXiv 1606.03498), by the classes that the extractor knows."""

    def seen(self, pictures: Tensor) -> Tensor:
        """Probabilities ``(B, K)``, and one column more: their sum with their own logarithms."""
        return with_negative_entropy(self.extractor.probabilities(pictures))

    def figures(self) -> list[Figure]:
        """One."""
        rows = self.rows()
        enough(len(rows), 2, "the inception score", "it compares single samples with all")
        test = held_out_pictures(self.real, self.modality)
        baselines = {}
        if test is not None:
            real = torch.cat([self.seen(part) for part in parts_of(test)])
            baselines = {of_test(len(test)): float(inception_score(real.double().mean(dim=0, keepdim=True)))}
        return [
            Figure(
                name="inception_score",
                of=(self.modality,),
                value=float(inception_score(rows.double().mean(dim=0, keepdim=True))),
                interval=function_of_mean_interval(inception_score, rows, least=1.0),
                n=len(rows),
                better="higher",
                baselines=baselines,
                features=self.extractor.name,
            )
        ]


def with_negative_entropy(probabilities: Tensor | None) -> Tensor:
    """``(N, K)`` to ``(N, K + 1)``: probabilities, and ``sum_k p_k log p_k``."""
    if probabilities is None:
        raise RuntimeError("the extractor knows no classes")
    return torch.cat([probabilities, torch.special.entr(probabilities).sum(dim=1, keepdim=True).neg()], dim=1)


def inception_score(means: Tensor) -> Tensor:
    """``exp(E KL(p(y | x), p(y)))`` of means ``(R, K + 1)`` of :func:`with_negative_entropy`, ``(R,)``."""
    scores: Tensor = (means[:, -1] + torch.special.entr(means[:, :-1]).sum(dim=1)).exp()
    return scores


class PrecisionRecallScorer(FeatureScorer):
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)."""

    def __init__(self, extractor: Extractor, modality: str, real: RealData, k: int) -> None:
        super().__init__(extractor, modality, real)
        self.k = k

    def figures(self) -> list[Figure]:
        """Two. An interval is of the share of the samples at hand; neighbourhoods are taken as they are."""
        features = at_most(self.rows())
        needed = self.k + 1
        enough(len(features), needed, "precision and recall", f"a sample's neighbourhood reaches to its {self.k}th")
        real = at_most(split_features(self.extractor, self.real, self.modality, "train"))
        enough(len(real), needed, "precision and recall of a training split", "it is too small for neighbourhoods")
        test = held_out_features(self.extractor, self.real, self.modality)
        found = precision_recall(features, real, self.k)
        shown = None if test is None or len(test) < needed else at_most(test)
        plain = None if shown is None else (of_test(len(shown)), precision_recall(shown, real, self.k))
        return [
            Figure(
                name=name,
                of=(self.modality,),
                value=float(hits.double().mean()),
                interval=share_interval(hits),
                n=len(hits),
                better="higher",
                baselines={} if plain is None else {plain[0]: float(plain[1][place].double().mean())},
                features=self.extractor.name,
            )
            for place, (name, hits) in enumerate(zip(("precision", "recall"), found, strict=True))
        ]


def precision_recall(features: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Which of features ``(N, F)`` lie among the real ``(M, F)``, bool ``(N,)``; which of the real lie among them."""
    return inside(features, real, radii(real, k)), inside(real, features, radii(features, k))


def at_most(rows: Tensor) -> Tensor:
    """Rows ``(N, ...)``; of more than 10,000, so many that are spread over all of them."""
    return rows if len(rows) <= AT_MOST else rows[torch.linspace(0, len(rows) - 1, AT_MOST).round().long()]


class NearestTrainingScorer(Scorer):
    """How far generated pictures are from the nearest training picture.

    Args:
        modality: The modality.
        real: The real data.
    """

    def __init__(self, modality: str, real: RealData) -> None:
        self.modality, self.real = modality, real
        self._kept = Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Keep the distances."""
        self._kept.add(self._to_training(checked(batch.values[self.modality], self.modality)))

    def figures(self) -> list[Figure]:
        """The median. Far below the test split's, the model copies what it was trained on."""
        found = self._kept.all()
        enough(len(found), FEWEST_FOR_MEDIAN, "the distance to training pictures", "it is a median")
        return [
            Figure(
                name="nearest_training",
                of=(self.modality,),
                value=float(found.median()),
                interval=median_interval(found),
                n=len(found),
                better="higher",
                baselines=self.real.once(f"metrics: nearest training to test {self.modality}", self._baselines),
                unit="RMS of pixels in 0..1",
            )
        ]

    def _baselines(self) -> dict[str, float]:
        test = held_out_pictures(self.real, self.modality)
        if test is None:
            return {}
        return {of_test(len(test)): float(torch.cat([self._to_training(part) for part in parts_of(test)]).median())}

    def _to_training(self, pictures: Tensor) -> Tensor:
        """Root mean square difference of pixels to the nearest training picture, ``(B,)``."""
        training = pictures_of(self.real, self.modality, "train").pixels.flatten(1)
        distances = nearest(pictures.flatten(1), training)
        return distances / math.sqrt(training.shape[1])
