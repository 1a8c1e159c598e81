"""The real data as metrics read it: pictures of bounded size in memory, and classes and maps beside them.

Letters for shapes: N samples, C channels (1 grey, 3 RGB), H W height and width, K classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import attrs
import torch
from torch import Tensor

from mtdiff_core import MissingSplitError, UserError

if TYPE_CHECKING:
    from mtdiff_core import FieldSpec, Modality, RealData, Shape, Split

MEMORY = 2**28  # bytes that the pictures of a split may take
Kind = Literal["picture", "masked picture", "label", "map", "vector", "other"]


def kinds_of(modalities: Mapping[str, Modality], real: RealData) -> dict[str, Kind]:
    """What each modality is, by its ``table_kind`` and the shape of its natural values; never by its name."""
    shapes = natural_shapes(real)
    return {name: _kind(modality.table_kind, shapes[name]) for name, modality in modalities.items()}


def _kind(table_kind: str, shape: Shape) -> Kind:
    if table_kind == "pictures" and len(shape) == 3:
        # A masked picture has its mask as one channel more.
        return "picture" if shape[0] in (1, 3) else "masked picture" if shape[0] in (2, 4) else "other"
    plain: dict[str, Kind] = {"labels": "label", "maps": "map", "vectors": "vector"}
    return plain.get(table_kind, "other")


def natural_shapes(real: RealData) -> dict[str, Shape]:
    """Shape of one sample's natural value, by modality."""

    def look() -> dict[str, Shape]:
        first = next(iter(real.batches("train")))
        return {name: tuple(values.shape[1:]) for name, values in first.truth.items()}

    return real.once("metrics: shapes", look)


@attrs.frozen(eq=False)
class Pictures:
    """Pictures of one modality in one split.

    Attributes:
        pixels: uint8 0..255, ``(N, C, H, W)``.
        rows: Which samples of the split they belong to, int64 ``(N,)``.
    """

    pixels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def pictures_of(real: RealData, modality: str, split: Split) -> Pictures:
    """The pictures of a split that have this modality; of more than memory allows, every so-manieth.

    Raises:
        MissingSplitError: There is no such split.
        UserError: No sample has the modality.
    """
    found = _pictures(real, modality, split)
    if not len(found):
        raise UserError(f"no sample of the {split} split has {modality!r}", f"modalities.{modality}")
    return found


def held_out_pictures(real: RealData, modality: str) -> Pictures | None:
    """The test split's pictures, None if there is no test split or none of it has the modality.

    Raises:
        UserError: There is one, and it cannot be read.
    """
    try:
        return _pictures(real, modality, "test") or None
    except MissingSplitError:
        return None


def _pictures(real: RealData, modality: str, split: Split) -> Pictures:
    """The pictures of a split that have this modality, read once; none if none has it."""
    return real.once(f"metrics: pictures of {modality} in {split}", lambda: _read(real, modality, split))


def _read(real: RealData, modality: str, split: Split) -> Pictures:
    size = math.prod(natural_shapes(real)[modality])
    total = len(real.samples(split))
    step = max(1, math.ceil(total * size / MEMORY))
    parts, rows, first = [], [], 0
    for batch in real.batches(split):
        values, present = batch.truth[modality], batch.present[modality]
        chosen = torch.arange(len(values))
        chosen = chosen[present & ((first + chosen) % step == 0)]
        parts.append((values[chosen] * 255).round().byte())
        rows.append(first + chosen)
        first += len(values)
    return Pictures(torch.cat(parts), torch.cat(rows))


def classes_of(real: RealData, field: str, split: Split, rows: Tensor) -> Tensor:
    """Classes, or maps of them, of some samples of a split, int64 ``(N, ...)``; what is none, or is missing, is -1."""

    def read() -> Tensor:
        samples = real.samples(split)
        spec = samples.fields[field]
        missing = torch.full(map_shape(spec), -1)
        values = (samples[int(row)].get(field) for row in rows)
        found = torch.stack([missing if x is None else x.long().reshape(missing.shape) for x in values])
        return torch.where((found >= 0) & (found < len(spec.classes)), found, -1)

    which = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    return real.once(f"metrics: {field} in {split}, rows {which}", read)


def map_shape(spec: FieldSpec) -> Shape:
    """``(H, W)`` of a map, ``()`` of a class."""
    return tuple(spec.shape[-2:])


def label_fields(real: RealData) -> dict[str, int]:
    """Number of classes of each field that is one class a sample."""
    fields = real.samples("train").fields
    return {name: len(spec.classes) for name, spec in fields.items() if not spec.shape and len(spec.classes) > 1}


def map_fields(real: RealData, shape: Shape) -> dict[str, int]:
    """Number of classes of each field that is a class for each pixel of pictures of this shape."""
    fields = real.samples("train").fields
    return {
        name: len(spec.classes)
        for name, spec in fields.items()
        if spec.shape in (tuple(shape[1:]), (1, *shape[1:])) and len(spec.classes) > 1
    }


def ignored_class(modality: Modality) -> int:
    """The class of pixels that count nowhere, -1 if there is none."""
    ignore: int = getattr(modality, "ignore", -1)
    return ignore


def checked(values: Tensor, name: str) -> Tensor:
    """Values as they are.

    Raises:
        UserError: They are not finite, as a model gives them that has diverged.
    """
    if not values.isfinite().all():
        raise UserError(f"generated values of {name!r} are not finite, so there is nothing to measure")
    return values


def enough(count: int, needed: int, figure: str, why: str) -> None:
    """Raise ``UserError`` unless there are so many samples."""
    if count < needed:
        raise UserError(
            f"{figure} of {count} samples would mean nothing: {why}", hint=f"generate {needed} samples or more"
        )
