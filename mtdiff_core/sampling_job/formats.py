"""Forms that samples are kept in. Each writes a part for every batch, and puts the parts together at the end."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import attrs
import tomli_w

from mtdiff_core.files import explained, tensor_file, write_atomically, written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.interfaces.modality import Modality

PARTS = "batches.parts"  # no modality can be called so, whose files lie beside it


@attrs.frozen
class SampleFormat(ABC):
    """A form that samples are kept in.

    Attributes:
        folder: Where they go.
        modalities: The modalities, bound.
        about: JSON data that is kept with the samples, where the form has a place for it.
    """

    result: ClassVar[str]
    suffix: ClassVar[str]

    folder: Path
    modalities: Mapping[str, Modality]
    about: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file that holds or lists all samples; it is there when everything is."""
        return self.folder / self.result

    def part(self, number: int) -> Path:
        """The file that holds or lists the samples of batch ``number``; it is there when all of them are."""
        return self.folder / PARTS / f"{number:06d}{self.suffix}"

    @abstractmethod
    def write_part(self, number: int, first_row: int, values: Mapping[str, Tensor]) -> None:
        """Write batch ``number``, whose first sample is sample ``first_row`` of all.

        Args:
            number: Counts batches from 0.
            first_row: Counts samples from 0.
            values: Model values by modality, ``(B, ...)`` each.

        Raises:
            UserError: It cannot be written.
        """

    @abstractmethod
    def finish(self, parts: Sequence[Path]) -> None:
        """Put the parts of all batches, in their order, together.

        Raises:
            UserError: The result cannot be written; the parts are as they were.
        """


class TensorFile(SampleFormat):
    """One safetensors file: a tensor in natural units for each modality."""

    result = "samples.safetensors"
    suffix = ".safetensors"

    def write_part(self, number: int, first_row: int, values: Mapping[str, Tensor]) -> None:
        """A safetensors file of this batch."""
        natural = {name: m.natural(values[name]).contiguous() for name, m in self.modalities.items()}
        write_atomically(self.part(number), tensor_file(natural, self.about))

    def finish(self, parts: Sequence[Path]) -> None:
        """The parts' tensors one after another, copied as they lie."""
        with written_whole(self.path) as file:
            join_tensor_files(parts, file)


def join_tensor_files(parts: Sequence[Path], file: BinaryIO) -> None:
    """Write a safetensors file that holds the tensors of several, joined along their first dimension.

    A safetensors file is the length of its header in 8 bytes, least significant first; the header, JSON that ends with
    spaces up to a multiple of 8 bytes; and the tensors' bytes, to which ``data_offsets`` refer. See
    https://huggingface.co/docs/safetensors, section "Format".
    """
    headers = [_read_header(part) for part in parts]
    whole: dict[str, Any] = {"__metadata__": headers[0].metadata}
    start = 0
    for name, entry in headers[0].entries.items():
        entries = [header.entries[name] for header in headers]
        stop = start + sum(one["data_offsets"][1] - one["data_offsets"][0] for one in entries)
        shape = [sum(one["shape"][0] for one in entries), *entry["shape"][1:]]
        whole[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in headers[0].entries:
        for part, header in zip(parts, headers, strict=True):
            _copy(part, header, name, file)


@attrs.frozen
class _Header:
    """The header of a safetensors file: its metadata, its tensors in the order they lie in, and where they begin."""

    metadata: dict[str, str]
    entries: dict[str, dict[str, Any]]
    begin: int


def _read_header(path: Path) -> _Header:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    metadata = entries.pop("__metadata__")
    ordered = dict(sorted(entries.items(), key=lambda item: item[1]["data_offsets"]))
    return _Header(metadata, ordered, 8 + length)


def _copy(part: Path, header: _Header, name: str, file: BinaryIO) -> None:
    """Copy the bytes of one tensor."""
    start, stop = header.entries[name]["data_offsets"]
    with part.open("rb") as source:
        source.seek(header.begin + start)
        file.write(source.read(stop - start))


class DataFolder(SampleFormat):
    """A data set that others can train on: files by modality, a manifest of them, and a recipe's ``[data]`` table."""

    result = "manifest.jsonl"
    suffix = ".jsonl"

    def write_part(self, number: int, first_row: int, values: Mapping[str, Tensor]) -> None:
        """The files of this batch, then their lines of the manifest."""
        count = len(next(iter(values.values())))
        stems = [f"{row:06d}" for row in range(first_row + 1, first_row + count + 1)]
        cells = {name: m.write(values[name], self.folder / name, stems) for name, m in self.modalities.items()}
        rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
        write_atomically(self.part(number), "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))

    def finish(self, parts: Sequence[Path]) -> None:
        """The table for recipes, then the manifest."""
        write_atomically(self.folder / "dataset.toml", data_table(self.path, self.modalities))
        with written_whole(self.path) as file:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)


def data_table(manifest: Path, modalities: Mapping[str, Modality]) -> str:
    """A recipe's ``[data]`` table that reads a manifest with a column for each modality, as TOML."""
    options: dict[str, Any] = {"dataset": "table", "path": str(manifest.resolve())}
    differing = []
    for name, modality in modalities.items():
        options.setdefault(modality.table_kind, []).append(name)
        for key, value in modality.table_options().items():
            if options.setdefault(key, value) != value:
                differing.append(f"# {key} is another for {name}: {json.dumps(value)}\n")
    head = (
        "# Generated samples as a data set: put this in place of a recipe's [data] table, or beside its batch_size.\n"
    )
    return f"{head}{''.join(differing)}\n{tomli_w.dumps({'data': options})}"


def remove_parts(folder: Path) -> None:
    """Remove what was put together.

    Raises:
        UserError: It cannot be removed.
    """
    parts = folder / PARTS
    with explained("cannot be removed", parts):
        if parts.exists():
            shutil.rmtree(parts)


FORMATS: dict[str, type[SampleFormat]] = {"safetensors": TensorFile, "folder": DataFolder}
