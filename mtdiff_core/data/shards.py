"""Shards: samples in tar files, as WebDataset lays them out, and the index beside them.

A sample is some members of a shard that follow each other, one for each field that it has:

    000017_2.image.png    sample 17 of this shard, which has 2 members; its field ``image``: uint8, grey or RGB
    000017_2.label.cls    a whole number, in decimal digits
    000017_2.spectrum.npz any other field, as the array ``value`` of a NumPy archive

The numbers in the names tell what is missing where a file is damaged; PNG and NPZ carry checksums of what they hold.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs
import cattrs
import torch

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.dataset import FieldSpec, Shard

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "index.json"
FORMAT = "mtdiff shards 1"
MEMBER = re.compile(r"(?P<number>\d+)_(?P<members>\d+)\.(?P<field>.+)\.(?P<suffix>png|cls|npz)")
# What decoders raise: SyntaxError is Pillow's for a broken PNG, RuntimeError and NotImplementedError are zipfile's,
# TokenError is NumPy's for a broken header.
DECODING_ERRORS = (
    OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


@attrs.frozen(kw_only=True)
class ShardFile(Shard):
    """What the index says of a shard, whose name is that of its file.

    Attributes:
        bytes: Its size.
        sha256: Its checksum, in hexadecimal.
    """

    bytes: int
    sha256: str


@attrs.frozen(kw_only=True)
class ShardIndex:
    """``index.json``: what the shards of a split hold.

    Attributes:
        made_from: What they were made from, and how.
        fields: What the samples hold.
        shards: The shards, in the order of their samples.
        format: The layout of the shards.
    """

    made_from: dict[str, Any]
    fields: dict[str, FieldSpec]
    shards: tuple[ShardFile, ...]
    format: str = FORMAT

    @property
    def samples(self) -> int:
        """How many there are, in all shards."""
        return sum(shard.samples for shard in self.shards)

    def to_json(self) -> str:
        """As a file's text."""
        return json.dumps(cattrs.unstructure(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> ShardIndex:
        """Undo :meth:`to_json`.

        Raises:
            UserError: The text is no index, or that of another layout.
        """
        try:
            index = cattrs.structure(json.loads(text), cls)
        except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
            raise UserError("is no index of shards", where, "`mtdiff data pack` writes one") from error
        if index.format != FORMAT:
            raise UserError(f"is an index of {index.format!r}, and {FORMAT!r} is read here", where)
        return index


@attrs.frozen
class PackedSample:
    """A sample as a shard keeps it.

    Attributes:
        where: Which one, for messages.
        members: The bytes of its members by field.
    """

    where: str
    members: Mapping[str, bytes]


def member_suffix(spec: FieldSpec, field: str) -> str:
    """How a field is kept: ``"png"``, ``"cls"`` or ``"npz"``.

    Raises:
        UserError: It cannot be kept.
    """
    dtype = getattr(torch, spec.dtype)
    if "/" in field:
        raise UserError(f"field {field!r} cannot be the name of a file", hint="a slash would make it a folder")
    if dtype == torch.bfloat16 or "float8" in spec.dtype:
        raise UserError(f"field {field!r} holds {spec}, which NumPy has not", hint="float16 and float32 can be kept")
    if spec.shape == () and not dtype.is_floating_point and dtype != torch.bool:
        return "cls"
    is_picture = len(spec.shape) == 2 or (len(spec.shape) == 3 and spec.shape[0] in (1, 3))
    return "png" if spec.dtype == "uint8" and is_picture else "npz"


def write_sample(
    shard: tarfile.TarFile, number: int, sample: Mapping[str, Tensor], suffixes: Mapping[str, str]
) -> None:
    """Append a sample to a shard.

    Args:
        shard: Open for writing.
        number: Counts samples of this shard from 0.
        sample: Its values by field.
        suffixes: How each field is kept, see :func:`member_suffix`.
    """
    for field, value in sample.items():
        data = _ENCODE[suffixes[field]](value)
        member = tarfile.TarInfo(f"{number:06d}_{len(sample)}.{field}.{suffixes[field]}")
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))


def read_samples(file: BinaryIO, name: str, samples: int, start: int) -> Iterator[PackedSample | UserError]:
    """The samples of a shard from number ``start`` on, as they are kept; errors in place of those that are damaged.

    Args:
        file: The shard, seekable; it is closed in the end.
        name: What messages call it.
        samples: How many samples it should hold.
        start: The first one that is wanted.
    """
    wanted = start
    with file:
        for number, found in groupby(_members(file, start), key=lambda member: member.number):
            if not wanted <= number < samples:
                continue
            for missing in range(wanted, number):
                yield _missing(name, missing)
            wanted = number + 1
            members = list(found)
            is_whole = len(members) == members[0].of
            sample = PackedSample(_where(name, number), {member.field: member.data for member in members})
            yield sample if is_whole else _missing(name, number)
    for missing in range(wanted, samples):
        yield _missing(name, missing)


@attrs.frozen
class _Member:
    """A part of sample ``number``, one ``of`` so many."""

    number: int
    of: int
    field: str
    data: bytes


def _members(file: BinaryIO, start: int) -> Iterator[_Member]:
    """All members that are there, from a sample on."""
    try:
        # Ignoring zeros, tarfile also looks for the next member where the header of one is damaged.
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as shard:
            for member in shard:
                shard.members = []  # type: ignore[attr-defined]  # it would keep all it has seen
                named = MEMBER.fullmatch(member.name)
                content = shard.extractfile(member) if named and member.isfile() else None
                if named and content and int(named["number"]) >= start:
                    yield _Member(int(named["number"]), int(named["members"]), named["field"], content.read())
    except tarfile.TarError:
        return  # it ends before its end; what was not found is missing


def _where(name: str, number: int) -> str:
    return f"{name}, sample {number}"


def _missing(name: str, number: int) -> UserError:
    return UserError("is missing, or lacks a part", _where(name, number))


def decode_sample(sample: PackedSample, specs: Mapping[str, FieldSpec], fields: Collection[str]) -> dict[str, Tensor]:
    """Those of some fields that a sample has.

    Raises:
        UserError: A member is damaged.
    """
    decoded = {}
    for field in fields:
        if field not in sample.members:
            continue
        spec, data = specs[field], sample.members[field]
        try:
            value = _DECODE[member_suffix(spec, field)](data, spec)
        except DECODING_ERRORS as error:
            raise UserError(f"field {field!r} is damaged ({error})", sample.where) from error
        if tuple(value.shape) != spec.shape or value.dtype != getattr(torch, spec.dtype):
            what = f"field {field!r} is {value.dtype} {tuple(value.shape)}, and the index says {spec}"
            raise UserError(what, sample.where)
        decoded[field] = value
    return decoded


def _to_png(value: Tensor) -> bytes:
    from torchvision.transforms.v2 import functional

    file = io.BytesIO()
    functional.to_pil_image(value if value.ndim == 3 else value[None]).save(file, format="PNG")
    return file.getvalue()


def _from_png(data: bytes, spec: FieldSpec) -> Tensor:
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            pixels = torch.as_tensor(functional.pil_to_tensor(picture))  # (C, H, W)
    except UnidentifiedImageError as error:  # it names no more than an address in memory
        raise ValueError("is no PNG picture") from error
    except Image.DecompressionBombError as error:
        raise ValueError(error) from error
    return pixels if len(spec.shape) == 3 else pixels[0]


def _to_cls(value: Tensor) -> bytes:
    return str(int(value)).encode()


def _from_cls(data: bytes, spec: FieldSpec) -> Tensor:
    number = int(data)
    if spec.classes and not 0 <= number < len(spec.classes):
        raise ValueError(f"there is no class {number}")
    return torch.tensor(number, dtype=getattr(torch, spec.dtype))


def _to_npz(value: Tensor) -> bytes:
    import numpy

    file = io.BytesIO()
    numpy.savez(file, value=value.numpy())
    return file.getvalue()


def _from_npz(data: bytes, spec: FieldSpec) -> Tensor:
    import numpy

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        value = archive.read("value.npy")  # to its end, where its checksum is compared: NumPy would stop short of it
    return torch.from_numpy(numpy.lib.format.read_array(io.BytesIO(value), allow_pickle=False))


_ENCODE: dict[str, Callable[[Tensor], bytes]] = {"png": _to_png, "cls": _to_cls, "npz": _to_npz}
_DECODE: dict[str, Callable[[bytes, FieldSpec], Tensor]] = {"png": _from_png, "cls": _from_cls, "npz": _from_npz}
