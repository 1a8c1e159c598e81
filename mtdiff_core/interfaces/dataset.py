"""DatasetSource: where samples come from, as named fields. It knows nothing of modalities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs

from mtdiff_core.interfaces.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.errors import UserError

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


@attrs.frozen(kw_only=True)
class Shard:
    """A part of a split that is read from front to back.

    Attributes:
        name: What messages call it.
        samples: How many samples it holds, damaged ones included.
    """

    name: str
    samples: int


class SampleStream(Protocol):
    """One split of a data set that is larger than memory, or far away: shards, each read in its own order.

    Reading and decoding are two steps, so that a buffer for shuffling holds samples as small as they are kept, and
    they are decoded where there are hands free. Both may be called from several threads.

    Attributes:
        fields: What the samples hold.
        shuffle_buffer: Samples that are held to be given in another order than they were read in; 1 for that order.
        max_bad: Share of the samples, in [0, 1], that may be damaged before reading stops.
    """

    fields: dict[str, FieldSpec]
    shuffle_buffer: int
    max_bad: float

    @property
    def shards(self) -> Sequence[Shard]:
        """The parts of the split."""
        ...

    def read(self, shard: int, start: int) -> Iterator[Any | UserError]:
        """The samples ``start``, ``start + 1``, ... of a shard as they are kept, up to its last.

        In place of a sample that is damaged or missing comes the error that says which one, and why.

        Raises:
            UserError: The shard is not there, or cannot be read at all.
        """
        ...

    def decode(self, packed: Any, fields: Collection[str]) -> dict[str, Tensor]:
        """What :meth:`read` gave to a sample, with those of these fields that it has.

        Raises:
            UserError: It is damaged; the message names it.
        """
        ...


class DatasetSource(Component, ABC):
    """A data set that recipes can name under ``[data]``."""

    __slots__ = ()

    @abstractmethod
    def open(self, split: Split) -> Samples:
        """Open one split; where there is also a stream, so much of its beginning as fits in memory.

        Raises:
            MissingSplitError: There is nothing for this split.
            UserError: The data cannot be read; the message says what layout is expected.
        """

    def stream(self, split: Split) -> SampleStream | None:
        """Open one split as a stream, which training then reads; None where :meth:`open` gives all of it.

        Raises:
            MissingSplitError: There is nothing for this split.
            UserError: The data cannot be read; the message says what layout is expected.
        """
        return None
