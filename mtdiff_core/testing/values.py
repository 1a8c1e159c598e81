"""Values to test with where a plugin author gives none: made from what a modality says of the field it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.testing.kit import UnknownFieldError
from mtdiff_core.testing.subject import fitted

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import Shape
    from mtdiff_core.interfaces.modality import Modality

CLASSES = ("first", "second", "third", "fourth")
SHAPES: tuple[Shape, ...] = ((1, 8, 8), (3, 8, 8), (), (8, 8), (4,), (1,), (2,), (3,), (8,), (16,))

Make = Callable[[torch.Size, torch.Generator], Tensor]
# What real numbers may be: any, positive, shares. The first that a modality takes is used.
NUMBERS: tuple[Make, ...] = (
    lambda size, random: torch.randn(size, generator=random),
    lambda size, random: torch.randn(size, generator=random).exp(),
    lambda size, random: torch.rand(size, generator=random),
)


def candidate_fields() -> Iterator[FieldSpec]:
    """Fields as data sets have them, the commonest first."""
    named = (("int64", CLASSES), ("uint8", CLASSES))
    for (dtype, classes), shape in product((("uint8", ()), *named, ("float32", ()), ("int64", ())), SHAPES):
        is_picture = dtype == "uint8" and not classes
        if not is_picture or len(shape) == 3:
            yield FieldSpec(shape=shape, dtype=dtype, classes=classes)


def field_of(modality: Modality, kit: str) -> FieldSpec:
    """The first field that a modality takes.

    Raises:
        UnknownFieldError: It takes none of the usual ones.
    """
    for spec in candidate_fields():
        try:
            modality.check(spec)
        except UserError:
            continue
        return spec
    raise UnknownFieldError(
        f"{type(modality).__name__}.check refuses every field that the kit knows",
        f"say what it reads: {kit}.field = FieldSpec(shape=..., dtype=...)",
    )


def field_values(modality: Modality, count: int, random: torch.Generator) -> Tensor:
    """Values of the field that a bound modality reads, ``(count, *shape)``."""
    spec = modality.spec
    size, dtype = torch.Size((count, *spec.shape)), getattr(torch, spec.dtype)
    if spec.classes:
        every = torch.arange(size.numel()) % len(spec.classes)  # so that none is left out
        return every[torch.randperm(len(every), generator=random)].reshape(size).to(dtype)
    if spec.dtype == "uint8":  # dark and bright more often than grey, as in pictures
        return (127.5 * (1 - torch.cos(torch.pi * torch.rand(size, generator=random)))).round().byte()
    if not dtype.is_floating_point:
        return torch.randint(0, 10, size, generator=random).to(dtype)
    return _numbers(modality, size, random).to(dtype)


def _numbers(modality: Modality, size: torch.Size, random: torch.Generator) -> Tensor:
    """Real numbers of the first kind that a modality takes, once it has learnt from them."""
    for make in NUMBERS:
        values = make(size, random)
        with suppress(Exception):  # if no kind does, the checks meet it again
            learnt, _ = fitted(modality, modality.spec, values)
            if learnt.prepare(values.clone(), torch.Generator().manual_seed(0)).isfinite().all():
                return values
    return NUMBERS[0](size, random)
