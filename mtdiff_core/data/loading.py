"""Training batches of samples, in an order that depends on the seed and the position alone."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from mtdiff_core.data.batches import Batch, Source, prepare_batch
from mtdiff_core.data.workers import begin_worker, closed_at_exit
from mtdiff_core.errors import UserError
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import Samples


class _EndlessOrder:
    """Samples, each once an epoch, epochs joined without a gap."""

    def __init__(self, samples: Tensor, seed: int, stream: str) -> None:
        self.samples, self.seed, self.stream = samples, seed, stream
        self._epoch, self._permutation = -1, torch.empty(0)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, len(self.samples))
        if self._epoch != epoch:
            self._epoch = epoch
            self._permutation = torch.randperm(len(self.samples), generator=generator(self.seed, self.stream, epoch))
        return int(self.samples[self._permutation[place]])


class _BatchOrder(Sampler[list[tuple[int, int]]]):
    """Endless batches of ``(batch number, sample index)``, a part of each from ``favoured`` samples alone."""

    def __init__(self, samples: int, share: RankRows, seed: int, favoured: Tensor, favoured_size: int) -> None:
        parts = [
            (favoured_size, _EndlessOrder(favoured, seed, "favoured order")),
            (share.batch_size - favoured_size, _EndlessOrder(torch.arange(samples), seed, "order")),
        ]
        slots = [(size, order, i) for size, order in parts for i in range(size)]
        # Evenly mixed: times are stratified along the batch, and a batch may be computed in pieces.
        self.slots = sorted(slots, key=lambda slot: (slot[2] + 0.5) / slot[0])[share.rows]
        self.done = 0  # batches that come before

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for before in count(self.done):
            yield [(before + 1, order[before * size + i]) for size, order, i in self.slots]


@attrs.frozen
class RankRows:
    """The rows ``[rank B / ranks, (rank + 1) B / ranks)`` of every global batch: those that one process trains on.

    Attributes:
        batch_size: B, of the global batch.
        rank: Which process, 0 to ``ranks - 1``.
        ranks: How many processes there are.
    """

    batch_size: int
    rank: int = 0
    ranks: int = 1

    def __attrs_post_init__(self) -> None:
        if self.batch_size % self.ranks:
            what = f"{self.batch_size} samples cannot be shared equally by {self.ranks} processes"
            raise UserError(what, "data.batch_size", f"choose a multiple of {self.ranks}")

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.batch_size // self.ranks

    @property
    def rows(self) -> slice:
        """The rows."""
        return slice(self.rank * self.size, (self.rank + 1) * self.size)


class Preparation:
    """Makes training batches of samples: prepared, augmented, and with what is hidden.

    Args:
        sources: What each modality reads.
        seed: Of all that is random.
        keep: Share of the samples that keep a modality.
        samples: How many samples the split has.
        share: The rows that are asked for.
    """

    def __init__(
        self, sources: Mapping[str, Source], seed: int, keep: Mapping[str, float], samples: int, share: RankRows
    ) -> None:
        self.sources, self.seed, self.samples, self.share = sources, seed, samples, share
        self.kept = {name: kept_samples(samples, part, seed, name) for name, part in keep.items()}

    def batch(self, number: int, samples: Sequence[Mapping[str, Tensor]], indices: Sequence[int]) -> Batch:
        """This process's rows of a global batch.

        What is drawn for a row must not depend on how many processes there are. So the whole batch is prepared,
        with samples that lack everything in place of the rows of others, which are never loaded.

        Args:
            number: Of the global batch, from 1; names what is drawn.
            samples: Samples of this process's rows.
            indices: Which samples of the split they are.

        Raises:
            UserError: A value is out of range.
        """
        rows, nothing = self.share.rows, dict[str, Tensor]()
        everyone = [nothing] * rows.start + list(samples) + [nothing] * (self.share.batch_size - rows.stop)
        batch = prepare_batch(everyone, self.sources, generator(self.seed, "prepare", number))
        # Each modality gets the same random numbers, so that the same options move aligned values alike.
        augmented = {
            name: source.modality.augment(batch.values[name], generator(self.seed, "augment", number))[rows]
            for name, source in self.sources.items()
        }
        kept = {name: mask[torch.tensor(indices)] for name, mask in self.kept.items()}
        present = {n: has[rows] & kept[n] if n in kept else has[rows] for n, has in batch.present.items()}
        return Batch(values=augmented, present=present)


class _PreparedSamples(Dataset["Batch | UserError"]):
    """Whole batches, prepared where they are loaded: in a worker, if there are any."""

    def __init__(self, samples: Samples, preparation: Preparation) -> None:
        self.samples, self.preparation = samples, preparation

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | UserError:
        """A batch, or why there is none: torch would put a worker's traceback into the message of what it raises."""
        number, indices = keys[0][0], [index for _, index in keys]
        try:
            return self.preparation.batch(number, [self.samples[index] for index in indices], indices)
        except UserError as error:
            return error

    def complete(self) -> Tensor:
        """Indices of the samples that lack nothing, as far as they are kept. Reads each of those that are kept once."""
        fields = {source.field for source in self.preparation.sources.values()}
        kept = torch.ones(len(self.samples), dtype=torch.bool)
        for some in self.preparation.kept.values():
            kept &= some
        indices = [i for i in kept.nonzero().squeeze(1).tolist() if fields <= self.samples[i].keys()]
        return torch.tensor(indices, dtype=torch.int64)


def check_as_many(samples: int, state: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if a loader stood so among another number of samples: it would go on in another order."""
    was = state["samples"]
    if samples != was:
        what = f"the data has changed since it was trained on: {was:,} training samples then, {samples:,} now"
        raise UserError(what, "data", "give the run its data back, or begin a new one")


def kept_samples(samples: int, share: float, seed: int, name: str) -> Tensor:
    """Which samples keep a modality, bool ``(N,)``: the same number for every seed, the same ones all through a run."""
    order = torch.randperm(samples, generator=generator(seed, "keep", name))
    return order < round(share * samples)


def _as_is(batch: Batch | UserError) -> Batch | UserError:
    return batch


class TrainingLoader(Protocol):
    """Endless training batches, and where they stand."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches from where they stand on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where they stand, as JSON data: what the batches that were given out so far come to."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: The number of samples is another.
        """
        ...

    def joint_state(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What a run goes on from, on whichever number of processes, whose loaders stand so, by rank."""
        ...


class _SampleLoader:
    """Training batches of samples in any order; see :func:`training_loader`.

    Where it stands is the number of batches that were given out, of so many samples, and nothing else: what torchdata
    knows of its workers would tie a run to their number, and no batch depends on them.
    """

    def __init__(self, samples: _PreparedSamples, order: _BatchOrder, workers: int) -> None:
        self._order, self._samples, self._number = order, samples.preparation.samples, 0
        self._loader = StatefulDataLoader(
            samples, batch_sampler=order, collate_fn=_as_is, num_workers=workers, worker_init_fn=begin_worker
        )

    def __iter__(self) -> Iterator[Batch]:
        return closed_at_exit(self._batches())

    def _batches(self) -> Generator[Batch]:
        self._order.done = self._number
        loading = iter(self._loader)
        try:
            for batch in loading:
                if isinstance(batch, UserError):
                    raise batch
                self._number += 1
                yield batch
        finally:  # torch leaves it to the garbage collector, which may come after Python has begun to wait for workers
            getattr(loading, "_shutdown_workers", lambda: None)()

    def state_dict(self) -> dict[str, int]:
        """How many batches were given out, and of how many samples."""
        return {"number": self._number, "samples": self._samples}

    def joint_state(self, states: Sequence[dict[str, int]]) -> dict[str, int]:
        """That of the one that is behind: where one cannot read its next batch, others have it already."""
        return min(states, key=lambda state: state["number"])

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after so many batches."""
        check_as_many(self._samples, state)
        self._number = state["number"]


def training_loader(
    samples: Samples,
    sources: Mapping[str, Source],
    batch_size: int,
    seed: int,
    workers: int = 0,
    keep: Mapping[str, float] = MappingProxyType({}),
    complete_share: float = 0.0,
    rank: int = 0,
    ranks: int = 1,
) -> TrainingLoader:
    """An endless, stateful loader of training batches.

    Epochs follow each other within one pass over it, which never ends: workers live as long as the training does.
    Its ``state_dict()`` is plain data; loading it into a new loader goes on with the very next batch, with as many
    workers as that one has. The rows of all ranks, one after another, are the batch that a single process gets, sample
    by sample and draw by draw.

    Args:
        samples: The training split.
        sources: What each modality reads.
        batch_size: Samples in a global batch, those of all ranks together.
        seed: Of the order and of all that is random in preparing.
        workers: Processes that load; 0 loads in this one.
        keep: Share of the samples that keep a modality.
        complete_share: Share of each batch, rounded up, drawn from samples that lack nothing; the rest comes from all.
        rank: Which of several processes loads here; it gets ``B / ranks`` rows of each global batch, those in its turn.
        ranks: How many processes train together.

    Raises:
        UserError: A share of each batch is to lack nothing, and every sample lacks something; or the batch cannot be
            shared equally.
    """
    share = RankRows(batch_size, rank, ranks)
    prepared = _PreparedSamples(samples, Preparation(sources, seed, keep, len(samples), share))
    complete_size = math.ceil(complete_share * batch_size)
    complete = prepared.complete() if complete_size else torch.arange(0)
    if complete_size and not len(complete):
        raise UserError("every training sample lacks something", "data.complete_share", "0 takes samples as they come")
    return _SampleLoader(prepared, _BatchOrder(len(samples), share, seed, complete, complete_size), workers)
