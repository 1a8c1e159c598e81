"""Batches of a stream, in an order that depends on the seed and the position alone, with bounded memory.

    shards, in an order of each epoch's own -> read in sequence -> shuffled within a window -> batches -> prepared

The shards are dealt to lanes, one for each process that a run begins with; every batch takes as many samples of each
lane. A run that goes on with another number of processes keeps its lanes, and so its batches: a process then reads
several lanes, or reads with others the one that its rows come from.

The windows are ``shuffle_buffer`` samples that follow each other. While one is given out in its random order, the next
is read, a sample for a sample: so many are held, never more, and where a run stands is one number.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, count, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torchdata.nodes import BaseNode, ParallelMapper

from mtdiff_core.data.calls import Calls
from mtdiff_core.data.damage import ADVICE, Damage
from mtdiff_core.data.loading import Preparation, RankRows, check_as_many
from mtdiff_core.data.workers import closed_at_exit
from mtdiff_core.errors import UserError
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.data.batches import Batch, Source
    from mtdiff_core.interfaces.dataset import SampleStream

log = logging.getLogger(__name__)

Sample = dict[str, "Tensor"]  # by field


@attrs.frozen
class _Kept:
    """A sample as it is kept, or what is wrong with it, and its number in the split."""

    index: int
    packed: Any | UserError


class _Lane:
    """The samples of some of a stream's shards, each once an epoch, epochs joined without a gap.

    Args:
        stream: The split.
        seed: Of the order.
        lane: Which one: that of the shards ``lane, lane + lanes, ...``.
        lanes: How many there are.

    Attributes:
        samples: How many it has, damaged ones included.
        damage: Where damaged ones are counted.
    """

    def __init__(self, stream: SampleStream, seed: int, lane: int, lanes: int) -> None:
        self.stream, self.seed = stream, seed
        self.firsts = list(accumulate((shard.samples for shard in stream.shards), initial=0))
        self.shards = torch.arange(lane, len(stream.shards), lanes)
        self.samples = sum(stream.shards[i].samples for i in self.shards.tolist())
        self.damage = Damage(self.samples, stream.max_bad)

    def count(self, damaged: Iterable[int]) -> None:
        """Count those of some damaged samples that are its own."""
        shards = set(self.shards.tolist())
        own = [index for index in damaged if bisect_right(self.firsts, index) - 1 in shards]
        self.damage = Damage(self.samples, self.stream.max_bad, own)

    def read_from(self, position: int) -> Iterator[_Kept]:
        """The endless order from a position on."""
        epoch, start = divmod(position, self.samples)
        for number in count(epoch):
            yield from self._epoch(number, start)
            start = 0

    def _epoch(self, epoch: int, start: int) -> Iterator[_Kept]:
        size = self.stream.shuffle_buffer
        number, place = divmod(start, size)
        reading = self._in_sequence(epoch, number * size)
        window, ahead = list(islice(reading, size)), list(islice(reading, place))
        while window:
            mended = self._mended(window)
            order = torch.randperm(len(mended), generator=generator(self.seed, "window", epoch, number))
            left = [mended[i] for i in reversed(order[place:].tolist())]
            window, mended = [], []  # what was given out must not stay in memory
            while left:
                yield left.pop()
                ahead += islice(reading, 1)
            window, ahead, number, place = ahead, [], number + 1, 0

    def _in_sequence(self, epoch: int, start: int) -> Iterator[_Kept]:
        order = torch.randperm(len(self.shards), generator=generator(self.seed, "shards", epoch))
        for shard in self.shards[order].tolist():
            skipped = min(start, self.stream.shards[shard].samples)
            start -= skipped
            if skipped < self.stream.shards[shard].samples:
                kept = self.stream.read(shard, skipped)
                yield from (_Kept(self.firsts[shard] + skipped + i, one) for i, one in enumerate(kept))

    def decode(self, piece: Sequence[_Kept], rows: slice, fields: Collection[str]) -> Iterator[tuple[Sample, int]]:
        """Some rows of what a batch takes of this lane, and their numbers in the split.

        In place of a damaged sample comes the next of ``piece`` that is not, whichever rows are asked for.

        Raises:
            UserError: There are too many damaged ones, or no others.
        """
        for row in range(*rows.indices(len(piece))):
            for one in (*piece[row:], *piece[:row]):
                try:
                    decoded = self.stream.decode(one.packed, fields)
                except UserError as error:
                    self.damage.add(one.index, error)
                else:
                    self.damage.mended(one.index)
                    yield decoded, one.index
                    break
            else:
                raise UserError(f"none of the {len(piece)} samples of a batch can be decoded", hint=ADVICE)

    def _mended(self, window: list[_Kept]) -> list[_Kept]:
        """The window with the next readable sample in place of each that is not, so that positions stay what they are.

        Raises:
            UserError: There are too many of these, or no others.
        """
        for one in window:
            if isinstance(one.packed, UserError):
                self.damage.add(one.index, one.packed)
        good = [i for i, one in enumerate(window) if not isinstance(one.packed, UserError)]
        if not good:
            raise UserError(f"none of {len(window)} samples in a row can be read", hint=str(window[0].packed))
        return [window[good[bisect_left(good, i) % len(good)]] for i in range(len(window))]


@attrs.frozen
class _Share:
    """What a process takes of a lane.

    Attributes:
        lane: The lane.
        size: Samples that each batch takes of it.
        rows: Those among them that are this process's.
    """

    lane: _Lane
    size: int
    rows: slice


@attrs.frozen
class _KeptBatch:
    """Global batch ``number``, as far as it is made of this process's lanes."""

    number: int
    pieces: Sequence[list[_Kept]]


class _ReadBatches(BaseNode[_KeptBatch | UserError]):  # type: ignore[misc]  # torchdata has no types
    """Batches as they are kept, after the first ``number``; at the end of what can be read the error that says why.

    Errors are values all through the nodes: torchdata would put a traceback into their messages.
    """

    def __init__(self, shares: Sequence[_Share], number: int, calls: Calls) -> None:
        super().__init__()
        self.shares, self.number, self.calls = shares, number, calls

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Begin."""
        super().reset(initial_state)
        self._reading = [share.lane.read_from(self.number * share.size) for share in self.shares]

    def next(self) -> _KeptBatch | UserError:
        """The next batch."""
        return self.calls(self._next)

    def _next(self) -> _KeptBatch | UserError:
        self.number += 1
        try:
            taken = zip(self.shares, self._reading, strict=True)
            return _KeptBatch(self.number, [[next(lane) for _ in range(share.size)] for share, lane in taken])
        except UserError as error:
            return error

    def get_state(self) -> dict[str, Any]:
        """Nothing: where a run stands is known by :class:`StreamLoader`."""
        return {}


class StreamLoader:
    """Endless training batches of a stream; see :func:`stream_loader`."""

    def __init__(self, stream: SampleStream, preparation: Preparation, workers: int) -> None:
        self._stream, self._preparation, self._workers = stream, preparation, workers
        self._number = 0
        self._lay_out(preparation.share.ranks)

    def _lay_out(self, lanes: int) -> None:
        """Deal the shards to lanes, and find those that this process's rows come from."""
        share, seed = self._preparation.share, self._preparation.seed
        self._lanes = [_Lane(self._stream, seed, lane, lanes) for lane in range(lanes)]
        size = share.batch_size // lanes
        first, last = share.rows.start // size, (share.rows.stop - 1) // size
        self._shares = [
            _Share(lane, size, slice(max(0, share.rows.start - n * size), min(size, share.rows.stop - n * size)))
            for n, lane in enumerate(self._lanes[first : last + 1], start=first)
        ]

    def __iter__(self) -> Iterator[Batch]:
        self._warn_of_unequal_lanes()
        return closed_at_exit(self._batches())  # see :class:`Calls`

    def _warn_of_unequal_lanes(self) -> None:
        sizes = [lane.samples for lane in self._lanes]
        if min(sizes) < max(sizes) and self._preparation.share.rank == 0:
            log.warning(
                "this run began with %d processes, whose shards hold %d to %d samples: some samples come %.3g times as "
                "often as others; `mtdiff data pack` with another --shard-size can make a multiple of %d equal shards",
                len(sizes), min(sizes), max(sizes), max(sizes) / min(sizes), len(sizes),
            )  # fmt: skip

    def _batches(self) -> Generator[Batch]:
        calls = Calls()
        reading = _ReadBatches(self._shares, self._number, calls)
        # Threads: Pillow, zlib and torch let go of the interpreter while they work, and nothing has to be copied. No
        # more batches are under way than are worked on: each takes memory.
        mapper = ParallelMapper(
            reading,
            lambda read: calls(partial(self._prepared, read)),
            num_workers=self._workers,
            method="thread",
            max_concurrent=self._workers or None,
        )
        try:
            for batch in mapper:
                if isinstance(batch, UserError):
                    raise batch
                self._number += 1
                yield batch
        finally:
            calls.end()

    def state_dict(self) -> dict[str, Any]:
        """Position in the endless order of so many samples, the number of lanes, and the damaged ones known here."""
        damaged = sorted(index for share in self._shares for index in share.lane.damage.found())
        samples = self._preparation.samples
        return {"number": self._number, "samples": samples, "lanes": len(self._lanes), "damaged": damaged}

    def joint_state(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The position of the one that is behind, and the damaged samples that any process knows of."""
        behind: dict[str, Any] = min(states, key=lambda state: state["number"])  # others may be one ahead
        return {**behind, "damaged": sorted({index for state in states for index in state["damaged"]})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position, on whichever number of processes."""
        check_as_many(self._preparation.samples, state)
        self._number = state["number"]
        self._lay_out(state["lanes"])
        for share in self._shares:
            share.lane.count(state["damaged"])

    def _prepared(self, read: _KeptBatch | UserError) -> Batch | UserError:
        if isinstance(read, UserError):
            return read
        try:
            samples, indices = zip(*self._decoded(read.pieces), strict=True)
            for piece in read.pieces:
                piece.clear()  # what is decoded need not be held as it is kept while it is prepared
            return self._preparation.batch(read.number, samples, indices)
        except UserError as error:
            return error

    def _decoded(self, pieces: Sequence[Sequence[_Kept]]) -> Iterator[tuple[Sample, int]]:
        fields = {source.field for source in self._preparation.sources.values()}
        for share, piece in zip(self._shares, pieces, strict=True):
            yield from share.lane.decode(piece, share.rows, fields)


def stream_loader(
    stream: SampleStream,
    sources: Mapping[str, Source],
    batch_size: int,
    seed: int,
    workers: int = 0,
    keep: Mapping[str, float] = MappingProxyType({}),
    rank: int = 0,
    ranks: int = 1,
) -> StreamLoader:
    """An endless, stateful loader of training batches of a stream, as ``loading.training_loader`` is of samples.

    Batch n is the same whatever the number of workers, and whether or not the loader began with it. Unlike there it
    holds other samples where a run begins with more ranks, since each has shards of its own: within an epoch of its
    own, each rank sees each sample of its shards once. A state of a loader with other ranks gives the batches that
    those would have gone on with. A rank may then read several times as much, or hold as many ``shuffle_buffer``.

    Args:
        stream: The training split.
        sources: What each modality reads; nothing derived.
        batch_size: Samples in a global batch, those of all ranks together.
        seed: Of the order and of all that is random in preparing.
        workers: Threads that decode and prepare, beside one that reads ahead; 0 does all in the caller's.
        keep: Share of the samples that keep a modality.
        rank: Which of several processes loads here.
        ranks: How many processes train together.

    Raises:
        UserError: The batch cannot be shared equally, or there are fewer shards than processes.
    """
    if len(stream.shards) < ranks:
        what = f"{len(stream.shards)} shards cannot be shared by {ranks} processes"
        raise UserError(what, "data", "pack the data again with a smaller --shard-size")
    samples = sum(shard.samples for shard in stream.shards)
    preparation = Preparation(sources, seed, keep, samples, RankRows(batch_size, rank, ranks))
    return StreamLoader(stream, preparation, workers)


class FirstSamples:
    """The first samples of a stream, indexable: for what cannot do with a stream. Each is read when it is asked for.

    They stay in memory as they are kept, encoded. In place of a damaged one comes the next that is not.

    Args:
        stream: The split.
        samples: How many.
    """

    def __init__(self, stream: SampleStream, samples: int) -> None:
        self.fields = dict(stream.fields)
        self._stream, self._samples = stream, samples
        self._damage = Damage(samples, stream.max_bad)
        self._kept: list[Any | UserError] = []
        self._reading = islice((one for i in range(len(stream.shards)) for one in stream.read(i, 0)), samples)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = range(len(self))[index]
        for other in (*range(place, len(self)), *range(place)):
            self._kept += islice(self._reading, max(0, other + 1 - len(self._kept)))
            packed = self._kept[other]
            try:
                if isinstance(packed, UserError):
                    raise packed
                return self._stream.decode(packed, self.fields)
            except UserError as error:
                self._damage.add(other, error)
        raise UserError("none of the samples can be read", hint=ADVICE)
