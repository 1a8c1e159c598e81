"""Samples that lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.interfaces.dataset import FieldSpec


class TensorSamples:
    """One tensor per field, samples along its first dimension.

    Args:
        fields: What the fields hold.
        tensors: Their values, ``(N, *shape)`` each.
    """

    def __init__(self, fields: Mapping[str, FieldSpec], tensors: Mapping[str, Tensor]) -> None:
        self.fields = dict(fields)
        self._tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self._tensors.items()}
