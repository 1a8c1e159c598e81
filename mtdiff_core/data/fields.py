"""What samples hold, against what their data set says they hold: by itself torch would say neither which nor whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.registry.results import maker_of

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import DatasetSource


def check_fields(fields: object, dataset: DatasetSource) -> None:
    """Raise ``UserError`` unless a data set says what its samples hold."""
    if not isinstance(fields, Mapping) or not all(isinstance(spec, FieldSpec) for spec in fields.values()):
        raise UserError(f"{maker_of(dataset)}: fields must be a dict of names and FieldSpec, not {fields!r}", "data")
    for name, spec in cast("Mapping[str, FieldSpec]", fields).items():
        if not isinstance(getattr(torch, str(spec.dtype), None), torch.dtype):
            raise UserError(f"{maker_of(dataset)}: torch has no dtype {spec.dtype!r}, of its field {name!r}", "data")


def check_sample(
    sample: Mapping[str, Tensor], fields: Mapping[str, FieldSpec], dataset: type[DatasetSource] | None
) -> None:
    """Raise ``UserError`` if fields that a sample has do not hold what the data set, if it is known, says they hold."""
    for name, spec in fields.items():
        if name in sample and not _fits(sample[name], spec.shape, getattr(torch, spec.dtype)):
            value: object = sample[name]
            has = f"a {type(value).__name__}"
            if isinstance(value, Tensor):
                has = str(FieldSpec(shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch.")))
            whose = f"{maker_of(dataset)}: " if dataset else ""
            raise UserError(f"{whose}a sample's field {name!r} is {has}, and is said to be {spec}", "data")


def field_values(
    samples: Sequence[Mapping[str, Tensor]], field: str, spec: FieldSpec, dataset: type[DatasetSource] | None
) -> Tensor:
    """One field of samples, ``(B, *spec.shape)``; 0 for those that lack it.

    Raises:
        UserError: It holds something else than the data set says.
    """
    blank = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
    values = [sample.get(field, blank) for sample in samples]
    for sample, value in zip(samples, values, strict=True):
        if not _fits(value, blank.shape, blank.dtype):
            check_sample(sample, {field: spec}, dataset)
    return torch.stack(values)


def _fits(value: object, shape: Sequence[int], dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.shape == shape and value.dtype == dtype
