"""Generated vectors against the truth. Letters for shapes: N samples, D dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import Figure, Scorer
from mtdiff_core.intervals import share_interval
from mtdiff_metrics.data import checked, enough
from mtdiff_metrics.rows import Rows

if TYPE_CHECKING:
    from mtdiff_core import ScoredBatch

GROUP = 100


class RetrievalScorer(Scorer):
    """Whether a generated vector's nearest of a hundred true ones is its own.

    Args:
        name: The modality's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._found, self._true = Rows(), Rows()

    def update(self, batch: ScoredBatch) -> None:
        """Keep those that have a true vector."""
        if self.name in batch.truth:
            present = batch.present[self.name]
            self._found.add(checked(batch.values[self.name], self.name)[present].flatten(1).float())
            self._true.add(batch.truth[self.name][present].flatten(1).float())

    def figures(self) -> list[Figure]:
        """The share. Vectors past the last whole hundred are left out."""
        kept = len(self._found) // GROUP * GROUP
        enough(kept, GROUP, "retrieval", f"each vector is looked for among {GROUP} that have a true one")
        right = own_is_nearest(self._found.all()[:kept], self._true.all()[:kept])
        return [
            Figure(
                name="retrieval",
                of=(self.name,),
                value=float(right.double().mean()),
                interval=share_interval(right),
                n=kept,
                better="higher",
                baselines={"chance": 1 / GROUP},
            )
        ]


def own_is_nearest(found: Tensor, true: Tensor) -> Tensor:
    """Whether the nearest of each hundred true vectors ``(N, D)`` is that of the same row, bool ``(N,)``."""
    groups = zip(torch.split(found, GROUP), torch.split(true, GROUP), strict=True)
    return torch.cat([torch.cdist(a, b).argmin(dim=1) == torch.arange(GROUP) for a, b in groups])
