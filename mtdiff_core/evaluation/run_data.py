"""The real data of a run, as metrics see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mtdiff_core.assembly import open_split_again
from mtdiff_core.data.batches import prepare_batch
from mtdiff_core.errors import MissingSplitError
from mtdiff_core.interfaces.metric import RealData, ScoredBatch
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from mtdiff_core.assembly import Experiment
    from mtdiff_core.data.batches import Batch, Source
    from mtdiff_core.interfaces.dataset import Samples, Split
    from mtdiff_core.interfaces.workshop import Workshop

T = TypeVar("T")
BATCH = 256


class RunData(RealData):
    """The data set that an experiment was assembled for.

    Args:
        experiment: The experiment.
        workshop: Device, seed, cache and progress.
    """

    def __init__(self, experiment: Experiment, workshop: Workshop) -> None:
        self.experiment, self.workshop = experiment, workshop
        self._opened: dict[Split, tuple[Samples, dict[str, Source]]] = {}
        self._made: dict[str, Any] = {}

    def open(self, split: Split) -> tuple[Samples, dict[str, Source]]:
        """A split, and what reads its fields; derived once."""
        if split not in self._opened:
            self._opened[split] = open_split_again(self.experiment, self.workshop, split)
        return self._opened[split]

    def held_out(self) -> Split:
        """The split that is judged with: the test split, or the training split where there is no other."""
        try:
            self.open("test")
        except MissingSplitError:
            return "train"
        return "test"

    def samples(self, split: Split) -> Samples:
        """The data set's own fields, and those that modalities derive."""
        return self.open(split)[0]

    def field(self, modality: str) -> str:
        """Name of the field that a modality reads."""
        return self.experiment.sources[modality].field

    def batches(self, split: Split) -> Iterator[ScoredBatch]:
        """All samples of a split in order."""
        for batch in self.model_batches(split):
            values = self.natural(batch)
            yield ScoredBatch(values=values, truth=values, present=batch.present)

    def model_batches(self, split: Split, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Samples of a split, all or these, in order, as model values; preparing draws the same each time."""
        samples, sources = self.open(split)
        chosen = range(len(samples)) if indices is None else indices
        for start in range(0, len(chosen), BATCH):
            rows = [samples[index] for index in chosen[start : start + BATCH]]
            yield prepare_batch(rows, sources, generator(self.workshop.seed, "evaluate", split, start))

    def natural(self, batch: Batch) -> dict[str, Any]:
        """A batch's values in natural units."""
        return {name: self.experiment.sources[name].modality.natural(x) for name, x in batch.values.items()}

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives the first time that this key is asked for."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])
