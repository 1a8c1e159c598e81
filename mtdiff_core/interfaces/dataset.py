"""DatasetSource: where samples come from, as named fields. It knows nothing of modalities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from mtdiff_core.interfaces.component import Component

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "test"]
Shape = tuple[int, ...]


@attrs.frozen(kw_only=True)
class FieldSpec:
    """What one field of a data set holds, for every sample alike.

    Attributes:
        shape: Shape of one sample's value, ``()`` for a scalar, ``(C, H, W)`` for a picture.
        dtype: torch's name for its type, such as ``"uint8"`` (a picture, 0 to 255) or ``"int64"``.
        classes: For integer values, what 0, 1, 2, ... are called; empty if they are not classes.
    """

    shape: Shape
    dtype: str
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.dtype} {shape}" + (f" with {len(self.classes)} classes" if self.classes else "")


class Samples(Protocol):
    """One split of a data set, indexable in any order."""

    fields: dict[str, FieldSpec]

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Sample ``index``: a value for each field. A field that this sample lacks is left out, never faked."""
        ...


class DatasetSource(Component, ABC):
    """A data set that recipes can name under ``[data]``."""

    __slots__ = ()

    @abstractmethod
    def open(self, split: Split) -> Samples:
        """Open one split.

        Raises:
            MissingSplitError: There is nothing for this split.
            UserError: The data cannot be read; the message says what layout is expected.
        """
