"""Whether a generated picture shows what goes with it. Letters for shapes: N samples, B batch, K classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import Figure, Scorer
from mtdiff_core.intervals import share_interval
from mtdiff_metrics.data import checked, enough, held_out_pictures, ignored_class
from mtdiff_metrics.judge import Judge, label_share, map_iou
from mtdiff_metrics.overlap import mean_iou, overlaps
from mtdiff_metrics.rows import Rows
from mtdiff_metrics.scorers.maps import iou_of, plane

if TYPE_CHECKING:
    from mtdiff_core import Modality, RealData, ScoredBatch

REAL, SHUFFLED = "real test pictures", "shuffled"


class LabelAgreementScorer(Scorer):
    """Share of generated pictures whose label the judge gives them, too.

    Args:
        picture: The picture's name.
        label: The label's name.
        judge: The judge of the pictures.
        real: The real data.
    """

    def __init__(self, picture: str, label: str, judge: Judge, real: RealData) -> None:
        self.picture, self.label, self.judge, self.real = picture, label, judge, real
        self.field = real.field(label)
        self._judged, self._labels = Rows(), Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Keep the judge's opinion, and the label."""
        self._judged.add(self.judge.labels(checked(batch.values[self.picture], self.picture), self.field))
        self._labels.add(batch.values[self.label])

    def figures(self) -> list[Figure]:
        """One."""
        judged, labels = self._judged.all(), self._labels.all()
        enough(len(judged), 1, "agreement", "there are none")
        right = judged == labels
        test = held_out_pictures(self.real, self.picture)
        real = None if test is None else label_share(self.judge, self.real, self.field, test)
        baselines = {} if real is None else {REAL: real}
        return [
            Figure(
                name="agreement",
                of=(self.picture, self.label),
                value=float(right.double().mean()),
                interval=share_interval(right),
                n=len(right),
                better="higher",
                baselines={**baselines, SHUFFLED: chance(judged, labels, self.judge.label_fields[self.field])},
                features=self.judge.name,
            )
        ]


def chance(judged: Tensor, labels: Tensor, classes: int) -> float:
    """Share of two sets of labels ``(N,)`` that is the same when they are paired at random."""
    shares = [values.bincount(minlength=classes).double() / len(values) for values in (judged, labels)]
    return float(shares[0] @ shares[1])


class MapAgreementScorer(Scorer):
    """Mean IoU of generated pictures' maps with those that the judge gives them.

    Args:
        picture: The picture's name.
        name: The map's name.
        modality: The map's modality.
        judge: The judge of the pictures.
        real: The real data.
    """

    def __init__(self, picture: str, name: str, modality: Modality, judge: Judge, real: RealData) -> None:
        self.picture, self.name, self.judge, self.real = picture, name, judge, real
        self.field, self.ignore = real.field(name), ignored_class(modality)
        self.classes = judge.map_fields[self.field]
        self._counts = Rows()
        self._shuffled = torch.zeros(1, 2 * self.classes)
        self._last: Tensor | None = None

    def update(self, batch: ScoredBatch) -> None:
        """Count pixels, with a sample's own map and with that of the sample before."""
        judged = self.judge.maps(checked(batch.values[self.picture], self.picture), self.field)
        maps = plane(batch.values[self.name])
        self._counts.add(overlaps(judged, maps, self.classes, self.ignore))
        before = torch.cat([maps[-1:] if self._last is None else self._last, maps[:-1]])
        self._shuffled += overlaps(judged, before, self.classes, self.ignore).sum(dim=0)
        self._last = maps[-1:]

    def figures(self) -> list[Figure]:
        """One."""
        counts = self._counts.all()
        enough(len(counts), 2, "agreement", "maps are compared with those of others, too")
        value, interval = iou_of(counts)
        test = held_out_pictures(self.real, self.picture)
        real = None if test is None else map_iou(self.judge, self.real, self.field, test, self.ignore)
        baselines = {} if real is None else {REAL: real}
        return [
            Figure(
                name="agreement",
                of=(self.picture, self.name),
                value=value,
                interval=interval,
                n=len(counts),
                better="higher",
                baselines={**baselines, SHUFFLED: float(mean_iou(self._shuffled))},
                features=self.judge.name,
            )
        ]
