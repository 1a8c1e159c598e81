"""Generated labels against the truth. Letters for shapes: N samples, B batch, K classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Categorical
from torchmetrics.functional.classification import binary_calibration_error

from mtdiff_core import Figure, Scorer
from mtdiff_core.intervals import function_of_mean_interval, share_interval
from mtdiff_metrics.data import enough
from mtdiff_metrics.rows import Rows

if TYPE_CHECKING:
    from mtdiff_core import RealData, ScoredBatch


class AccuracyScorer(Scorer):
    """Share of labels that are right.

    Args:
        label: The modality.
        real: The real data.
    """

    def __init__(self, label: str, real: RealData) -> None:
        self.label, self.real = label, real
        self._right, self._truth = Rows(), Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Compare those that have a true label."""
        if self.label in batch.truth:
            present = batch.present[self.label]
            truth = batch.truth[self.label][present]
            self._right.add(batch.values[self.label][present] == truth)
            self._truth.add(truth)

    def figures(self) -> list[Figure]:
        """The share, beside that of the training split's commonest class."""
        right = self._right.all()
        enough(len(right), 1, "accuracy", "none of them has a true label")
        commonest = self._truth.all() == commonest_class(self.real, self.label)
        return [
            Figure(
                name="accuracy",
                of=(self.label,),
                value=float(right.double().mean()),
                interval=share_interval(right),
                n=len(right),
                better="higher",
                baselines={"commonest class": float(commonest.double().mean())},
            )
        ]


def commonest_class(real: RealData, label: str) -> int:
    """The class that most of the training split has."""
    return int(class_counts(real, label).argmax())


def class_counts(real: RealData, label: str) -> Tensor:
    """How many of the training split have each class, int64 ``(K,)``; classes after the last that any has are left out.

    One class that none has, where there are no labels at all.
    """

    def count() -> Tensor:
        labels = torch.cat([batch.truth[label][batch.present[label]] for batch in real.batches("train")])
        return labels.bincount(minlength=1)

    return real.once(f"metrics: counts of {label}", count)


class CalibrationScorer(Scorer):
    """Whether labels are right as often as their probabilities say (Guo et al. 2017, arXiv 1706.04599).

    Args:
        label: The modality.
        real: The real data.
        bins: Number of bins of equal width.
    """

    def __init__(self, label: str, real: RealData, bins: int) -> None:
        self.label, self.real, self.bins = label, real, bins
        self._confidence, self._right, self._truth = Rows(), Rows(), Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Keep how sure the model was of its likeliest class, and whether that was right."""
        distribution = batch.distributions.get(self.label)
        if self.label not in batch.truth or not isinstance(distribution, Categorical):
            return
        present = batch.present[self.label]
        truth = batch.truth[self.label][present]
        confidence, found = distribution.probs.detach().float().cpu()[present].max(dim=1)
        self._confidence.add(confidence.clamp(0, 1))
        self._right.add(found == truth)
        self._truth.add(truth)

    def figures(self) -> list[Figure]:
        """The expected calibration error, beside that of always telling how often the training split has each class.

        None where labels were not read from a distribution of classes.
        """
        if not self._right.begun:
            return []
        confidence, right = self._confidence.all(), self._right.all()
        enough(len(right), 2, "the calibration error", "it compares groups of samples")
        return [
            Figure(
                name="calibration_error",
                of=(self.label,),
                value=self._error(confidence, right),
                interval=function_of_mean_interval(
                    lambda means: means.abs().sum(dim=1), gaps(confidence, right, self.bins), least=0.0
                ),
                n=len(right),
                better="lower",
                baselines=self._baselines(),
            )
        ]

    def _baselines(self) -> dict[str, float]:
        counts = class_counts(self.real, self.label)
        if not counts.any():
            return {}
        right = self._truth.all() == counts.argmax()
        confidence = torch.full((len(right),), float(counts.max() / counts.sum()))
        return {"shares of classes in the training split": self._error(confidence, right)}

    def _error(self, confidence: Tensor, right: Tensor) -> float:
        return float(binary_calibration_error(confidence, right.long(), self.bins, "l1", validate_args=False))


def gaps(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    """For each sample its confidence less whether it was right, in the column of its bin, ``(N, bins)``.

    The absolute values of the columns' means add up to the expected calibration error.
    """
    edges = torch.linspace(0, 1, bins + 1)
    column = (torch.bucketize(confidence, edges, right=True) - 1).clamp(0, bins - 1)
    rows = torch.zeros(len(confidence), bins, dtype=torch.float64)
    rows[torch.arange(len(confidence)), column] = confidence.double() - right.double()
    return rows
