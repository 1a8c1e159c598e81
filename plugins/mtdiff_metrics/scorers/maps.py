"""Generated class maps against the truth. Letters for shapes: N samples, B batch, K classes, H W height and width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import Figure, Scorer, UserError
from mtdiff_core.intervals import Interval, function_of_mean_interval
from mtdiff_metrics.data import enough, ignored_class
from mtdiff_metrics.overlap import mean_iou, overlaps
from mtdiff_metrics.rows import Rows

if TYPE_CHECKING:
    from mtdiff_core import Modality, RealData, ScoredBatch


class MeanIouScorer(Scorer):
    """Mean intersection over union.

    Args:
        name: The modality's name.
        modality: The modality.
        real: The real data.
    """

    def __init__(self, name: str, modality: Modality, real: RealData) -> None:
        self.name, self.real = name, real
        self.classes, self.ignore = len(modality.spec.classes), ignored_class(modality)
        self._counts = Rows()
        self._plain = torch.zeros(1, 2 * self.classes)

    def update(self, batch: ScoredBatch) -> None:
        """Count pixels, in those that have a true map and in the commonest map of all."""
        if self.name not in batch.truth:
            return
        present = batch.present[self.name]
        truth = plane(batch.truth[self.name][present])
        self._counts.add(overlaps(plane(batch.values[self.name][present]), truth, self.classes, self.ignore))
        plain = commonest_map(self.real, self.name, self.classes, self.ignore).expand_as(truth)
        self._plain += overlaps(plain, truth, self.classes, self.ignore).sum(dim=0)

    def figures(self) -> list[Figure]:
        """One, of all pixels of all samples, over the classes that are in either."""
        counts = self._counts.all()
        enough(len(counts), 2, "mean IoU", "too few of them have a true map")
        value, interval = iou_of(counts)
        return [
            Figure(
                name="mean_iou",
                of=(self.name,),
                value=value,
                interval=interval,
                n=len(counts),
                better="higher",
                baselines={"commonest class of each pixel": float(mean_iou(self._plain))},
            )
        ]


def iou_of(counts: Tensor) -> tuple[float, Interval]:
    """Mean IoU of counts ``(N, 2K)``, and its interval.

    Raises:
        UserError: No pixel counts.
    """
    if not counts.any():
        raise UserError("mean IoU of no pixels would mean nothing: none of them has a true class that counts")
    low, high = function_of_mean_interval(mean_iou, counts, least=0.0)
    return float(mean_iou(counts.double().mean(dim=0, keepdim=True))), (low, min(high, 1.0))


def plane(maps: Tensor) -> Tensor:
    """Maps ``(B, H, W)`` or ``(B, 1, H, W)``, int64 ``(B, H, W)``."""
    return maps.long().reshape(len(maps), *maps.shape[-2:])


def commonest_map(real: RealData, name: str, classes: int, ignore: int) -> Tensor:
    """The class that each pixel has most often in the training split, int64 ``(H, W)``."""

    def count() -> Tensor:
        total: Tensor | None = None
        for batch in real.batches("train"):
            maps = plane(batch.truth[name][batch.present[name]])
            seen = [((maps == one) & (maps != ignore)).sum(dim=0) for one in range(classes)]
            total = torch.stack(seen) + (0 if total is None else total)  # (K, H, W)
        if total is None:
            raise RuntimeError("the training split is empty")
        return total.argmax(dim=0)

    return real.once(f"metrics: commonest map of {name}", count)
