"""Batches of a stream, in an order that depends on the seed and the position alone, with bounded memory.

    shards, in an order of each epoch's own -> read in sequence -> shuffled within a window -> batches -> prepared

The windows are ``shuffle_buffer`` samples that follow each other. While one is given out in its random order, the next
is read, a sample for a sample: so many are held, never more, and where a run stands is one number.
"""

from __future__ import annotations

import atexit
import logging
import threading
from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import accumulate, count, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import attrs
import torch
from torchdata.nodes import BaseNode, ParallelMapper

from mtdiff_core.data.loading import Preparation, RankRows
from mtdiff_core.errors import UserError
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.data.loading import Batch, Source
    from mtdiff_core.interfaces.dataset import SampleStream

log = logging.getLogger(__name__)

LISTED = 10  # damaged samples that are named one by one


class Damage:
    """Damaged samples of a stream: counted, the first ones named in warnings. Can be used by several threads.

    Args:
        samples: How many samples there are.
        max_bad: Share of them that may be damaged.
    """

    def __init__(self, samples: int, max_bad: float) -> None:
        self.samples, self.max_bad = samples, max_bad
        self._found: dict[str, None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, error: UserError) -> None:
        """Count a sample, unless it was counted before.

        Raises:
            UserError: These are too many now.
        """
        name = str(error).split("\n")[0]
        with self._lock:
            if name in self._found:
                return
            self._found[name] = None
            if len(self) <= LISTED:
                log.warning("left out: %s", name)
            elif len(self) & (len(self) - 1) == 0:  # now and then, whatever there is to come
                log.warning("left out: %d samples so far", len(self))
            if len(self) > self.max_bad * self.samples:
                raise UserError(
                    f"{len(self)} of {self.samples} samples are damaged, more than max_bad = {self.max_bad:g}",
                    hint="\n  ".join([*islice(self._found, LISTED), ADVICE]),
                )


ADVICE = "`mtdiff data check FOLDER` lists all; pack them again, or raise data.max_bad, and go on with --resume"


@attrs.frozen
class _Kept:
    """A sample as it is kept, or what is wrong with it, and its number in the split."""

    index: int
    packed: Any | UserError


class _ShuffledStream:
    """The samples of one process's shards, each once an epoch, epochs joined without a gap.

    Args:
        stream: The split.
        seed: Of the order.
        rank: Which process: it reads the shards ``rank, rank + ranks, ...``.
        ranks: How many processes there are.

    Attributes:
        damage: Where damaged samples of these shards are counted.
    """

    def __init__(self, stream: SampleStream, seed: int, rank: int, ranks: int) -> None:
        self.stream, self.seed = stream, seed
        self.firsts = list(accumulate((shard.samples for shard in stream.shards), initial=0))
        self.shards = torch.arange(rank, len(stream.shards), ranks)
        self.samples = sum(stream.shards[i].samples for i in self.shards.tolist())
        self.damage = Damage(self.samples, stream.max_bad)

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

    def _mended(self, window: list[_Kept]) -> list[_Kept]:
        """The window with the next readable sample in place of each that is not, so that positions stay what they are.

        Raises:
            UserError: There are too many of these, or no others.
        """
        for one in window:
            if isinstance(one.packed, UserError):
                self.damage.add(one.packed)
        good = [i for i, one in enumerate(window) if not isinstance(one.packed, UserError)]
        if not good:
            raise UserError(f"none of {len(window)} samples in a row can be read", hint=str(window[0].packed))
        return [window[good[bisect_left(good, i) % len(good)]] for i in range(len(window))]


@attrs.frozen
class _KeptBatch:
    """This process's rows of global batch ``number``."""

    number: int
    samples: Sequence[_Kept]


class _ReadBatches(BaseNode[_KeptBatch | UserError]):  # type: ignore[misc]  # torchdata has no types
    """Batches as they are kept, from one on; at the end of what can be read the error that says why.

    Errors are values all through the nodes: torchdata would put a traceback into their messages.
    """

    def __init__(self, samples: _ShuffledStream, size: int, number: int) -> None:
        super().__init__()
        self.samples, self.size, self.number = samples, size, number

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Begin."""
        super().reset(initial_state)
        self._reading = self.samples.read_from(self.number * self.size)

    def next(self) -> _KeptBatch | UserError:
        """The next batch."""
        self.number += 1
        try:
            return _KeptBatch(self.number, [next(self._reading) for _ in range(self.size)])
        except UserError as error:
            return error

    def get_state(self) -> dict[str, Any]:
        """Nothing: where a run stands is known by :class:`StreamLoader`."""
        return {}


# Threads that are still at work in torch while Python ends would make it abort: their batches are closed before.
_UNFINISHED: WeakSet[Generator[Batch]] = WeakSet()


@atexit.register
def _close_unfinished() -> None:
    for batches in list(_UNFINISHED):
        batches.close()


class StreamLoader:
    """Endless training batches of a stream; see :func:`stream_loader`."""

    def __init__(self, samples: _ShuffledStream, preparation: Preparation, workers: int) -> None:
        self._samples, self._preparation, self._workers = samples, preparation, workers
        self._number = 0

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        _UNFINISHED.add(batches)
        return batches

    def _batches(self) -> Generator[Batch]:
        reading = _ReadBatches(self._samples, self._preparation.share.size, self._number)
        # Threads: Pillow, zlib and torch let go of the interpreter while they work, and nothing has to be copied.
        for batch in ParallelMapper(reading, self._prepared, num_workers=self._workers, method="thread"):
            if isinstance(batch, UserError):
                raise batch
            self._number += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Position in the endless order."""
        return {"number": self._number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position."""
        self._number = state["number"]

    def _prepared(self, read: _KeptBatch | UserError) -> Batch | UserError:
        if isinstance(read, UserError):
            return read
        try:
            samples, indices = zip(*self._decoded(read.samples), strict=True)
            return self._preparation.batch(read.number, samples, indices)
        except UserError as error:
            return error

    def _decoded(self, kept: Sequence[_Kept]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Samples and their numbers in the split; in place of a damaged one the next of the batch that is not.

        Raises:
            UserError: There are too many damaged ones, or no others.
        """
        fields = {source.field for source in self._preparation.sources.values()}
        decoded: list[tuple[dict[str, Tensor], int] | None] = []
        for one in kept:
            try:
                decoded.append((self._samples.stream.decode(one.packed, fields), one.index))
            except UserError as error:
                self._samples.damage.add(error)
                decoded.append(None)
        for place in range(len(decoded)):
            found = next((one for one in decoded[place:] + decoded[:place] if one is not None), None)
            if found is None:
                raise UserError(f"none of the {len(decoded)} samples of a batch can be decoded", hint=ADVICE)
            yield found


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
    holds other samples where there are more ranks, since each has shards of its own: within an epoch of its own,
    each rank sees each sample of its shards once.

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
    return StreamLoader(_ShuffledStream(stream, seed, rank, ranks), preparation, workers)


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
                self._damage.add(error)
        raise UserError("none of the samples can be read", hint=ADVICE)
