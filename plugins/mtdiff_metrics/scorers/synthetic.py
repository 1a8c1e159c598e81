"""What generated pairs are good for: a network trained on them alone, tested on real ones.

Ravuri and Vinyals 2019, arXiv 1905.10887. Letters for shapes: N samples, B batch, C channels, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtdiff_core import Figure, MissingSplitError, Scorer
from mtdiff_core.intervals import Interval, share_interval
from mtdiff_core.randomness import generator
from mtdiff_metrics.data import Pictures, checked, classes_of, enough, ignored_class, pictures_of
from mtdiff_metrics.extractors import parts_of
from mtdiff_metrics.judge import network_for, trained_network
from mtdiff_metrics.network import PictureNetwork, train
from mtdiff_metrics.overlap import overlaps
from mtdiff_metrics.scorers.maps import iou_of, plane

if TYPE_CHECKING:
    from mtdiff_core import Modality, RealData, ScoredBatch

FEWEST = 20
MOST = 50_000  # pairs that are kept to be learnt from


class SyntheticScorer(Scorer):
    """Trains a classifier, or a segmenter, on generated pictures and what goes with them.

    Args:
        picture: The picture's name.
        target: The label's or map's name.
        modality: Its modality.
        real: The real data.

    Raises:
        MissingSplitError: There is no test split.
    """

    def __init__(self, picture: str, target: str, modality: Modality, real: RealData) -> None:
        self.picture, self.target, self.real = picture, target, real
        self.of_pixels = modality.table_kind == "maps"
        self.classes, self.ignore = len(modality.spec.classes), ignored_class(modality)
        self.field = real.field(target)
        self._pixels: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kept = 0

    def update(self, batch: ScoredBatch) -> None:
        """Keep pairs, as bytes."""
        room = max(0, MOST - self._kept)
        pictures = checked(batch.values[self.picture], self.picture)[:room]
        self._pixels.append((pictures * 255).round().byte())
        targets = batch.values[self.target][:room]
        self._targets.append(self._as_classes(plane(targets) if self.of_pixels else targets).short())
        self._kept += len(pictures)

    def figures(self) -> list[Figure]:
        """One, beside the same of as many real pairs."""
        enough(self._kept, FEWEST, "training on synthetic samples", "they are too few to learn from")
        pixels, targets = torch.cat(self._pixels), torch.cat(self._targets).long()
        value, interval = self._tested(self._trained(pixels, targets))
        real, used = self._trained_on_real(self._kept)
        return [
            Figure(
                name="train_on_synthetic",
                of=(self.picture, self.target),
                value=value,
                interval=interval,
                n=self._kept,
                better="higher",
                baselines={f"trained on {used} real samples": self._tested(real)[0]},
                unit="mean IoU" if self.of_pixels else "",
            )
        ]

    @property
    def _heads(self) -> tuple[dict[str, int], dict[str, int]]:
        """Labels and maps that the network tells: its one target."""
        one = {self.field: self.classes}
        return ({}, one) if self.of_pixels else (one, {})

    def _trained(self, pixels: Tensor, targets: Tensor) -> PictureNetwork:
        network = network_for(tuple(pixels.shape[1:]), *self._heads)
        labels, maps = ([], [targets]) if self.of_pixels else ([targets], [])
        train(network, pixels, labels, maps, f"training on generated {self.picture}", self.real.workshop)
        return network

    def _trained_on_real(self, count: int) -> tuple[nn.Module, int]:
        """The network that so many of the training split's pairs teach, from all over it, and how many there are."""
        pictures = pictures_of(self.real, self.picture, "train")
        targets = self._as_classes(classes_of(self.real, self.field, "train", pictures.rows))
        known = (targets >= 0).flatten(1).any(dim=1) if self.of_pixels else targets >= 0
        order = torch.randperm(len(known), generator=generator(0, "train on synthetic"))
        chosen = order[known[order]][:count].sort().values  # the split may lie class by class
        real = Pictures(pictures.pixels[chosen], pictures.rows[chosen])
        return trained_network(self.real, self.picture, real, *self._heads, ignore=self.ignore), len(chosen)

    @torch.no_grad()
    def _tested(self, network: nn.Module) -> tuple[float, Interval]:
        """How well it reads the test split."""
        test = pictures_of(self.real, self.picture, "test")
        truth = self._as_classes(classes_of(self.real, self.field, "test", test.rows))
        device = self.real.workshop.device
        seen = [network(part.to(device)) for part in parts_of(test)]
        if self.of_pixels:
            found = torch.cat([maps[0].argmax(dim=1).cpu() for _, _, maps in seen])
            return iou_of(overlaps(found, truth, self.classes, self.ignore))
        known = truth >= 0
        enough(int(known.sum()), 1, "training on synthetic samples", f"no test picture has {self.target!r}")
        right = (torch.cat([labels[0].argmax(dim=1).cpu() for _, labels, _ in seen]) == truth)[known]
        return float(right.double().mean()), share_interval(right)

    def _as_classes(self, targets: Tensor) -> Tensor:
        """Classes, -1 for what is none or is ignored."""
        counted = (targets >= 0) & (targets < self.classes) & (targets != self.ignore)
        return torch.where(counted, targets, -1)


def has_test_split(real: RealData) -> bool:
    """Whether there is anything to test on."""
    try:
        real.samples("test")
    except MissingSplitError:
        return False
    return True
