"""Any split as shards, and what is damaged in shards."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from mtdiff_core.data.shards import (
    INDEX,
    PackedSample,
    ShardFile,
    ShardIndex,
    decode_sample,
    member_suffix,
    read_samples,
    write_sample,
)
from mtdiff_core.errors import UserError, located
from mtdiff_core.files import explained, read_text, write_atomically, written_whole
from mtdiff_core.interfaces.workshop import Progress, silent
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import Samples

PARTIAL = "index.partial.json"  # what the index will say, as far as shards are whole


def pack(
    samples: Samples,
    folder: Path,
    shard_size: int,
    shuffle: bool,
    made_from: Mapping[str, Any],
    progress: Progress = silent,
) -> ShardIndex:
    """Write a split as shards, then their index. What is there already of the same is not written again.

    Args:
        samples: The split.
        folder: Where the shards go.
        shard_size: Samples in a shard; the last may hold fewer.
        shuffle: Once for all, in an order that is the same each time: a stream is shuffled within a window alone.
        made_from: JSON data that says what the split is, so that one folder never holds shards of two.
        progress: Shows the work.

    Raises:
        UserError: A field cannot be kept, the folder holds something else, or cannot be written to. Shards that were
            written before are whole, and the same call goes on after them.
    """
    about = {**made_from, "samples": len(samples), "shard_size": shard_size, "shuffle": shuffle}
    with located("the data set"):
        suffixes = {field: member_suffix(spec, field) for field, spec in samples.fields.items()}
    index = ShardIndex(made_from=about, fields=dict(samples.fields), shards=())
    there = _there(folder, index)
    order = torch.arange(len(samples))
    if shuffle:
        order = torch.randperm(len(samples), generator=generator(0, "pack"))
    advance = progress(f"packing {folder}", len(samples))
    for number, start in enumerate(range(0, len(samples), shard_size)):
        name, indices = f"{number:06d}.tar", order[start : start + shard_size].tolist()
        shard = there.get(name) or _write_shard(folder / name, samples, indices, suffixes)
        index = attrs.evolve(index, shards=(*index.shards, shard))
        if name not in there:
            write_atomically(folder / PARTIAL, index.to_json())
        advance(shard.samples)
    write_atomically(folder / INDEX, index.to_json())
    with explained("cannot be removed", folder / PARTIAL):
        (folder / PARTIAL).unlink(missing_ok=True)
    return index


def _there(folder: Path, wanted: ShardIndex) -> dict[str, ShardFile]:
    """The shards that were written before, by name; makes the folder if there is none.

    Raises:
        UserError: The folder holds something else, or cannot be made.
    """
    with explained("cannot make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}
    # A shard is whole before an index says so: one more may be there.
    indices = [name for name in (PARTIAL, INDEX) if name in sizes]
    if not indices and sizes.keys() - {"000000.tar"}:
        raise UserError("holds something else", str(folder), "choose another --out")
    shards: dict[str, ShardFile] = {}
    for name in indices:
        found = ShardIndex.from_json(read_text(folder / name), str(folder / name))
        if (found.made_from, found.fields) != (wanted.made_from, wanted.fields):
            what = "holds shards of another data set, or of this one packed otherwise"
            raise UserError(what, str(folder), "choose another --out")
        shards |= {shard.name: shard for shard in found.shards if sizes.get(shard.name) == shard.bytes}
    return shards


def _write_shard(path: Path, samples: Samples, indices: list[int], suffixes: Mapping[str, str]) -> ShardFile:
    with written_whole(path) as file, tarfile.open(fileobj=file, mode="w") as shard:
        for number, index in enumerate(indices):
            sample = samples[index]
            if not sample:
                raise UserError(f"sample {index} has no field at all", "the data set", "remove it, and pack again")
            write_sample(shard, number, sample, suffixes)
    return ShardFile(name=path.name, samples=len(indices), bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, progress: Progress = silent) -> Iterator[str]:
    """What is wrong with shards: a line for each that is not there, and for each sample that is damaged.

    Args:
        folder: That of a split, which holds the index.
        progress: Shows the work.

    Raises:
        UserError: There is no index, or a file cannot be read.
    """
    index = ShardIndex.from_json(read_text(folder / INDEX), str(folder / INDEX))
    advance = progress(f"checking {folder}", len(index.shards))
    for shard in index.shards:
        path = folder / shard.name
        if not path.exists():
            yield f"{path}: is not there ({shard.samples} samples)"
        else:
            with explained("cannot be read", path):
                if _sha256(path) != shard.sha256:
                    yield from _damage_within(path, shard, index)
        advance(1)


def _damage_within(path: Path, shard: ShardFile, index: ShardIndex) -> Iterator[str]:
    found = 0
    for sample in read_samples(path.open("rb"), str(path), shard.samples, 0):
        error = _error_of(sample, index)
        if error is not None:
            found += 1
            yield str(error).split("\n")[0]
    if not found:
        yield f"{path}: is not as it was written, though every sample can be read"


def _error_of(sample: PackedSample | UserError, index: ShardIndex) -> UserError | None:
    if isinstance(sample, UserError):
        return sample
    try:
        decode_sample(sample, index.fields, index.fields)
    except UserError as error:
        return error
    return None
