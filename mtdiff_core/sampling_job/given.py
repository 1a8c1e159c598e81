"""What is given for each sample: values that a user wrote, and samples of the run's own data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, get_args

import attrs
import torch
from torch import Tensor

from mtdiff_core.data.batches import Batch, Source, prepare_batch, spread_rows
from mtdiff_core.errors import MissingSplitError, UserError
from mtdiff_core.interfaces.dataset import Samples, Split
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from mtdiff_core.directions import Direction

FROM_DATA = "@"
SPLITS: tuple[Split, ...] = get_args(Split)
# A split of the run's data set, and what reads its fields.
OpenSplit = Callable[[Split], tuple[Samples, Mapping[str, Source]]]


@attrs.frozen(kw_only=True)
class KnownRows:
    """What is known of some samples.

    Attributes:
        known: Model values by modality, ``(B, ...)`` each.
        truth: What the data has in place of what is to be generated; None where nothing came from a data set.
    """

    known: Mapping[str, Tensor]
    truth: Batch | None = None


@attrs.frozen(kw_only=True)
class SplitRows:
    """The samples of a split that have all that is given from it.

    Attributes:
        samples: The split.
        indices: Which of its samples.
        sources: All modalities, and the fields they read.
        seed: Names the stream of what :meth:`Modality.prepare` draws.
    """

    samples: Samples
    indices: Sequence[int]
    sources: Mapping[str, Source]
    seed: int

    def prepare(self, rows: slice) -> Batch:
        """All modalities of some of these samples; which ones, ``rows.start``, names what is drawn."""
        found = [self.samples[index] for index in self.indices[rows]]
        return prepare_batch(found, self.sources, generator(self.seed, "given", rows.start))


@attrs.frozen(kw_only=True)
class Given:
    """What is given, for every sample of a job. Rows are prepared when they are asked for.

    Attributes:
        direction: What is known and what is to be generated.
        count: Number of samples.
        written: Model values that a user wrote, one for all samples, or so many that each stands for ``each`` samples.
        each: Samples in a row that have the same written value.
        split: Where the other known values come from, if there are any.
    """

    direction: Direction
    count: int
    written: Mapping[str, Tensor]
    each: int = 1
    split: SplitRows | None = None

    def rows(self, rows: slice) -> KnownRows:
        """What is known of some samples."""
        number = torch.arange(rows.start, rows.stop) // self.each
        known = {name: values[number % len(values)] for name, values in self.written.items()}
        if self.split is None:
            return KnownRows(known=known)
        batch = self.split.prepare(rows)
        taken = {name: batch.values[name] for name in self.direction.known if name not in known}
        return KnownRows(known={**known, **taken}, truth=batch.only(self.direction.generated))


def read_given(
    texts: Mapping[str, str],
    direction: Direction,
    sources: Mapping[str, Source],
    open_split: OpenSplit,
    num: int | None,
    default_all: int,
    seed: int,
    spread: bool = False,
) -> Given:
    """Read what a user gives.

    Args:
        texts: By modality what :meth:`Modality.parse` understands, or ``"@train"`` or ``"@test"``.
        direction: What is known and what is to be generated.
        sources: All modalities.
        open_split: Opens a split of the run's data set.
        num: With a split, the number of its samples, all if None; otherwise samples for each written value.
        default_all: If ``num`` is None, about so many for all written values together, and at least one for each.
        seed: Names the streams of what is drawn.
        spread: Whether a number of a split's samples come from all over it; otherwise they are its first.

    Raises:
        UserError: A text cannot be read, the data is not there, or the values do not line up.
    """
    splits = {name: _split_of(texts[name]) for name in direction.known if texts[name].startswith(FROM_DATA)}
    written = {name: sources[name].modality.parse(texts[name]) for name in direction.known if name not in splits}
    if not splits:
        return _repeated(written, direction, num, default_all)
    if len(set(splits.values())) > 1:
        both = " and ".join(f"{name}={FROM_DATA}{split}" for name, split in splits.items())
        raise UserError(f"{both} are of different samples", hint="give all from one split")
    split = next(iter(splits.values()))
    samples, readers = _open(open_split, split)
    fields = [readers[name].field for name in splits]
    indices = _having(samples, fields, num) if num is None or not spread else spread_rows(samples, fields, num)
    if not indices:
        raise UserError(f"no sample of the {split} split has {' and '.join(splits)}", hint="the data lacks it")
    _check_lengths({**{name: len(x) for name, x in written.items()}, f"the {split} split": len(indices)}, len(indices))
    rows = SplitRows(samples=samples, indices=indices, sources=readers, seed=seed)
    return Given(direction=direction, count=len(indices), written=written, split=rows)


def _split_of(text: str) -> Split:
    """``"@test"`` to ``"test"``."""
    split = text.removeprefix(FROM_DATA)
    if split not in SPLITS:
        allowed = " or ".join(f"{FROM_DATA}{name}" for name in SPLITS)
        raise UserError(f"the data has no split {split!r}", hint=f"{allowed}; for a file of this name: ./{text}")
    return split


def _open(open_split: OpenSplit, split: Split) -> tuple[Samples, Mapping[str, Source]]:
    try:
        return open_split(split)
    except MissingSplitError as error:
        other = next(name for name in SPLITS if name != split)
        raise UserError(f"{FROM_DATA}{split}: {error}", hint=f"or give {FROM_DATA}{other}") from error
    except UserError as error:
        raise UserError(f"{FROM_DATA}{split} is read from the run's own data: {error}") from error


def _having(samples: Samples, fields: Sequence[str], most: int | None) -> list[int]:
    """The first samples that have all of these fields, at most so many."""
    complete = (index for index in range(len(samples)) if set(fields) <= samples[index].keys())
    return list(islice(complete, most))


def _repeated(written: Mapping[str, Tensor], direction: Direction, num: int | None, default_all: int) -> Given:
    """Each of the written values ``num`` times."""
    counts = {name: len(values) for name, values in written.items()}
    rows = max(counts.values(), default=1)
    _check_lengths(counts, rows)
    each = num or max(1, default_all // rows)
    return Given(direction=direction, count=rows * each, written=written, each=each)


def _check_lengths(counts: Mapping[str, int], rows: int) -> None:
    """Raise ``UserError`` unless there are as many values as rows of each modality, or one for all."""
    if any(count not in (1, rows) for count in counts.values()):
        numbers = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UserError(f"the given values do not line up: {numbers}", hint="give one of each, or equally many")
