"""Rows of a manifest to samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtdiff_core import FieldSpec, UserError
from mtdiff_core.files import user_path
from mtdiff_core.randomness import generator
from mtdiff_image.files import decode_picture, fit, open_picture

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_datasets.manifest import Row

DIGITS = 1000  # a name of more is no number: Python reads none of more than 4300
INDEX_MODES = ("L", "P", "1")  # Pillow's for pixels that are one number of at most eight bits


def held_out(rows: Sequence[Row], share: float) -> list[list[Row]]:
    """Rows to train and rows to test, each in their order; the same whenever as many rows are given.

    Chosen at random, because rows often repeat in a pattern (class after class) that an even choice would fall into.
    """
    order = torch.randperm(len(rows), generator=generator(0, "held out"))
    chosen = set(order[: round(len(rows) * share)].tolist())
    return [[row for i, row in enumerate(rows) if (i in chosen) == test] for test in (False, True)]


def file_of(row: Row, column: str) -> Path:
    """The file that a cell names."""
    value = row.cells[column]
    if not isinstance(value, str):
        raise UserError(f"column {column!r} must name a file, not {value!r}", row.where)
    return row.file.parent / user_path(value)


def label_of(row: Row, column: str) -> str:
    """The class that a cell names; whole numbers count as names."""
    value = row.cells[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"column {column!r} must be a class name or a whole number, not {value!r}", row.where)
    return str(value)


def vector_of(row: Row, column: str) -> Tensor:
    """The numbers that a cell lists, float32 ``(D,)``."""
    value = row.cells[column]
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
        if not isinstance(numbers, list) or any(type(number) not in (int, float) for number in numbers):
            raise ValueError("it is no list of numbers")
        vector = torch.tensor(numbers, dtype=torch.float32)
        if not len(vector) or not vector.isfinite().all():
            raise ValueError("it is empty, or has a number that float32 cannot hold")
    except (ValueError, OverflowError, RuntimeError, RecursionError) as error:
        shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]}..."
        raise UserError(
            f"column {column!r} cannot be read: {shown} ({error})",
            row.where,
            'expected a list of numbers; in CSV as text: "[0.5, -1, 2e3]"',
        ) from error
    return vector


def classes_of(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """All classes of a column, sorted; by value if all are whole numbers."""
    names = {label_of(row, column) for row in _having(rows, column)}
    if all(name.removeprefix("-").isdecimal() and len(name) < DIGITS for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def length_of(rows: Sequence[Row], column: str) -> int:
    """The length that all vectors of a column have.

    Raises:
        UserError: They differ; the message names two rows.
    """
    having = _having(rows, column)
    lengths = [len(vector_of(row, column)) for row in having]
    for row, length in zip(having, lengths, strict=True):
        if length != lengths[0]:
            raise UserError(
                f"column {column!r} has {length} numbers here, and {lengths[0]} in line {having[0].line}",
                row.where,
                "all vectors of a column have one length",
            )
    return lengths[0]


def _having(rows: Sequence[Row], column: str) -> list[Row]:
    """Rows that have a value in a column."""
    having = [row for row in rows if column in row.cells]
    if not having:
        raise UserError(f"column {column!r} is empty in every row", str(rows[0].file), "fill it, or do not name it")
    return having


def read_row(
    rows: Sequence[Row], fields: Mapping[str, FieldSpec], pictures: frozenset[str], index: int
) -> dict[str, Tensor]:
    """The sample of one row, without the fields that it lacks; ``pictures`` are the fields that are no class maps."""
    row, sample = rows[index], {}
    sizes: dict[str, tuple[int, int]] = {}
    for name in row.cells:
        spec = fields[name]
        if spec.dtype == "int64":
            sample[name] = torch.tensor(spec.classes.index(label_of(row, name)))
        elif spec.dtype == "float32":
            sample[name] = vector_of(row, name)
        elif name in pictures:
            picture = decode_picture(file_of(row, name), spec.shape[0])
            sizes[name] = (picture.shape[2], picture.shape[1])
            sample[name] = fit(picture, *spec.shape[1:])
        else:
            class_map = decode_map(file_of(row, name), spec.classes)
            sizes[name] = (class_map.shape[2], class_map.shape[1])
            sample[name] = fit(class_map, *spec.shape, nearest=True)[0]
    _check_maps_lie_over_pictures(row, sizes, pictures)
    return sample


def decode_map(path: Path, classes: Sequence[str]) -> Tensor:
    """The class indices in a picture file, uint8 ``(1, h, w)``; colours of a palette do not matter.

    Raises:
        UserError: The file is no grey or indexed picture, or an index has no class.
    """
    from torchvision.transforms.v2 import functional

    with open_picture(path) as file:
        if file.mode not in INDEX_MODES or file.format != "PNG":
            raise UserError(f"is no class map, but a {file.format} picture of mode {file.mode}", str(path))
        file.load()
        # a picture of mode "1" says 255 for 1
        class_map = torch.as_tensor(functional.pil_to_tensor(file if file.mode != "1" else file.point(bool, "L")))
    if class_map.max() >= len(classes):
        raise UserError(f"has class index {int(class_map.max())}, and map_classes has {len(classes)}", str(path))
    return class_map


def _check_maps_lie_over_pictures(row: Row, sizes: Mapping[str, tuple[int, int]], pictures: frozenset[str]) -> None:
    """A map of another aspect ratio than every picture would be cropped elsewhere, and not lie over any of them."""
    shown = [size for name, size in sizes.items() if name in pictures]
    for name, (width, height) in sizes.items():
        # one pixel more or less comes from rounding where a map is kept smaller than its picture
        if name not in pictures and shown and not any(abs(width * h - height * w) <= max(w, h) for w, h in shown):
            sides = " and ".join(f"{w}x{h}" for w, h in shown)
            raise UserError(f"the {width}x{height} map {name!r} does not lie over a picture of {sides}", row.where)
