"""Shards, as `mtdiff data pack` writes them, on the disk or anywhere that fsspec reads from."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mtdiff_core import DatasetSource, MissingSplitError, UserError, component, did_you_mean, option

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import Tensor

    from mtdiff_core import Samples, Split
    from mtdiff_core.data.shards import PackedSample, ShardFile, ShardIndex

EXPECTED = """expected a folder that `mtdiff data pack` wrote, some of its shards, or a URL of either:
    packed/train   packed/train/{000000..000007}.tar   s3://bucket/packed/train"""
AGAIN = "put it back, or mend the way to it; then the same command goes on with --resume"
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@component
class WebDataset(DatasetSource):
    """Shards (tar files) of any size, read as a stream: on the disk, or at any URL that fsspec has a driver for.

    `mtdiff data pack` makes them of any other data set; shards that it did not write have no index, and are not read.
    Modalities that have to see every sample before training cannot read them; what else needs samples in any order gets
    the first ones of a split.
    """

    train: str = option(help='the training split: a folder, "folder/{000000..000007}.tar", or a URL of either')
    test: str = option("", help="the test split, if there is one")
    shuffle_buffer: int = option(
        1000, help="samples held, encoded, to be given in random order; 1 for the order of the shards", minimum=1
    )
    max_bad: float = option(
        0.01, help="share of samples that may be damaged before the run stops", minimum=0, maximum=1, may_change=True
    )
    memory_mb: int = option(
        256, help="MB of a split's first samples that are there in any order, for metrics and given values", minimum=1
    )

    def open(self, split: Split) -> Samples:
        """As many of a split's first samples as fit in ``memory_mb`` while they are encoded, and at least one."""
        from mtdiff_core.data.streaming import FirstSamples

        stream = self.stream(split)
        samples = sum(shard.samples for shard in stream.shards)
        mean = sum(shard.bytes for shard in stream.shards) / samples
        return FirstSamples(stream, max(1, min(samples, int(self.memory_mb * 2**20 / mean))))

    def stream(self, split: Split) -> ShardStream:
        """All of a split."""
        path = self.train if split == "train" else self.test
        if not path:
            raise MissingSplitError(f"no shards are named for the {split} split", f"data.{split}", EXPECTED)
        return ShardStream(path, self.shuffle_buffer, self.max_bad)


class ShardStream:
    """The shards of a split, by their index.

    Args:
        path: The folder, or shards in it by a pattern with braces.
        shuffle_buffer: See :class:`mtdiff_core.SampleStream`.
        max_bad: See there.

    Raises:
        UserError: There is no index, or it does not know these shards, or one of them is not there.
    """

    def __init__(self, path: str, shuffle_buffer: int, max_bad: float) -> None:
        self.shuffle_buffer, self.max_bad = shuffle_buffer, max_bad
        is_pattern = path.endswith(".tar")
        self._url, _, pattern = path.rpartition("/") if is_pattern else (path.rstrip("/"), "", "")
        self._files, self._folder = _file_system(self._url or ".")
        index = self._index()
        self.fields = index.fields
        self.shards = _named(index, expanded(pattern), path) if is_pattern else index.shards
        if not self.shards:
            raise UserError("holds no shards", path, EXPECTED)
        self._check_are_there()

    def read(self, shard: int, start: int) -> Iterator[PackedSample | UserError]:
        """The samples of a shard; see :class:`mtdiff_core.SampleStream`."""
        from mtdiff_core.data.shards import read_samples

        found = self.shards[shard]
        name = f"{self._url}/{found.name}"
        with _driver_faults_explained(name, AGAIN):
            file = self._files.open(f"{self._folder}/{found.name}", "rb")
        explaining = cast("BinaryIO", _ExplainingFile(file, name))
        yield from read_samples(explaining, name, found.samples, start)

    def decode(self, packed: PackedSample, fields: Collection[str]) -> dict[str, Tensor]:
        """A sample of some fields."""
        from mtdiff_core.data.shards import decode_sample

        return decode_sample(packed, self.fields, fields)

    def _index(self) -> ShardIndex:
        from mtdiff_core.data.shards import INDEX, ShardIndex

        place = f"{self._url}/{INDEX}"
        with _driver_faults_explained(place, EXPECTED):
            text = self._files.cat_file(f"{self._folder}/{INDEX}")
        return ShardIndex.from_json(text, place)

    def _check_are_there(self) -> None:
        """Before anything begins, where it costs nothing: on the disk."""
        if "file" not in self._files.protocol:
            return
        missing = [one.name for one in self.shards if not self._files.exists(f"{self._folder}/{one.name}")]
        if missing:
            what = f"{len(missing)} of {len(self.shards)} shards are not there: {', '.join(missing[:10])}"
            raise UserError(what, self._url, "put them back, or name those that there are")


@contextmanager
def _driver_faults_explained(where: str, hint: str) -> Iterator[None]:
    """Whatever a file system's driver raises in the block says that something cannot be read: it may be of any type."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"cannot be read ({_reason(error)})", where, hint) from error


def _reason(error: Exception) -> str:
    """What a driver says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())


class _ExplainingFile(io.RawIOBase):
    """A driver's file, read only, whose faults are explained.

    Args:
        file: What the driver opened.
        name: What messages call it.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def read(self, size: int = -1) -> bytes:
        """Read."""
        with _driver_faults_explained(self._name, AGAIN):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        with _driver_faults_explained(self._name, AGAIN):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()

    def close(self) -> None:
        """Close it; a driver that cannot do so has nothing to lose."""
        with suppress(Exception):
            self._file.close()
        super().close()


def _file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL is about, and the path in it.

    Raises:
        UserError: fsspec knows no such file system, or lacks the driver for it, or that cannot begin.
    """
    from fsspec.core import url_to_fs

    try:
        files, folder = url_to_fs(url)
    except Exception as error:  # a driver's own may be of any type, where it lacks credentials for example
        raise UserError(f"cannot be opened ({_reason(error)})", url, EXPECTED) from error
    return files, folder


def _named(index: ShardIndex, names: list[str], path: str) -> tuple[ShardFile, ...]:
    """The shards of these names."""
    known = {shard.name: shard for shard in index.shards}
    for name in names:
        if name not in known:
            raise UserError(f"the index knows no shard {name!r}", path, did_you_mean(name, list(known)))
    return tuple(known[name] for name in names)


def expanded(pattern: str) -> list[str]:
    """``"{08..10}.tar"`` to ``["08.tar", "09.tar", "10.tar"]``; several braces to all their combinations."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    heads = [f"{pattern[: found.start()]}{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    return [head + tail for head in heads for tail in expanded(pattern[found.end() :])]
