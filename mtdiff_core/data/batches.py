"""Batches of model values, and how they are made of samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from mtdiff_core.data.fields import field_values
from mtdiff_core.errors import UserError, located
from mtdiff_core.randomness import generator
from mtdiff_core.transfer import to_device

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import DatasetSource, FieldSpec, Samples
    from mtdiff_core.interfaces.modality import Modality


@attrs.frozen(kw_only=True)
class Batch:
    """One batch.

    Attributes:
        values: Model values by modality, ``(B, ...)`` each; what is missing is filled with some valid value.
        present: Which samples really have them, bool ``(B,)`` each.
    """

    values: Mapping[str, Tensor]
    present: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.present.values())))

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            values={name: to_device(x, device) for name, x in self.values.items()},
            present={name: to_device(x, device) for name, x in self.present.items()},
        )

    def only(self, names: Iterable[str]) -> Batch:
        """The same samples with these modalities alone."""
        return Batch(values={n: self.values[n] for n in names}, present={n: self.present[n] for n in names})

    def first(self, count: int) -> Batch:
        """The first samples, in memory of their own."""
        return Batch(
            values={name: x[:count].clone() for name, x in self.values.items()},
            present={name: x[:count].clone() for name, x in self.present.items()},
        )

    def split(self, parts: int) -> list[Batch]:
        """The batch in equal parts, for gradient accumulation."""
        pairs = zip(split_tensors(self.values, parts), split_tensors(self.present, parts), strict=True)
        return [Batch(values=values, present=present) for values, present in pairs]


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Batches of the same modalities, one after another."""
    first = batches[0]
    return Batch(
        values={name: torch.cat([batch.values[name] for batch in batches]) for name in first.values},
        present={name: torch.cat([batch.present[name] for batch in batches]) for name in first.present},
    )


def split_tensors(tensors: Mapping[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Tensors by name, cut into equal parts along their first dimension."""
    chunks = {name: x.chunk(parts) for name, x in tensors.items()}
    return [{name: pieces[i] for name, pieces in chunks.items()} for i in range(parts)]


@attrs.frozen(kw_only=True)
class Source:
    """What a modality reads.

    Attributes:
        modality: The modality, bound.
        field: The name of the field.
        derived: What the field holds if it is one that the modality derived, see ``data.derived``.
        dataset: Whose field it is, for messages.
    """

    modality: Modality
    field: str
    derived: FieldSpec | None = None
    dataset: type[DatasetSource] | None = None

    @property
    def spec(self) -> FieldSpec:
        """What the field holds."""
        return self.derived or self.modality.spec


def bind(
    modality: Modality,
    name: str,
    field: str,
    fields: Mapping[str, FieldSpec],
    state: Mapping[str, Tensor] | None = None,
) -> Source:
    """Bind a modality to the field it reads, and to what it has learnt, if it has.

    Raises:
        UserError: There is no such field, or it does not hold what the modality needs.
    """
    where = f"modalities.{name}"
    if field not in fields:
        unsaid = '; without field = "..." a modality reads the one that is called as it is' if field == name else ""
        raise UserError(f"the data set has no field {field!r}", where, f"its fields: {', '.join(fields)}{unsaid}")
    # Rounding depends on how tensors lie in memory: what was just learnt must lie as if it came from a checkpoint.
    laid_out = {name: tensor.contiguous().clone() for name, tensor in (state or {}).items()}
    with located(where):
        return Source(modality=modality.bind(fields[field], laid_out), field=field)


def prepare_batch(
    samples: Sequence[Mapping[str, Tensor]], sources: Mapping[str, Source], random: torch.Generator
) -> Batch:
    """Samples of fields to a batch of model values; each modality draws from ``random`` in turn."""
    values, present = {}, {}
    for name, source in sources.items():
        has = torch.tensor([source.field in sample for sample in samples])
        field = field_values(samples, source.field, source.spec, source.dataset)  # (B, *shape)
        with located(f"data field {source.field!r} for modality {name!r}"):
            values[name] = source.modality.prepare(field, random)
        present[name] = has
    return Batch(values=values, present=present)


def batch_of_rows(samples: Samples, sources: Mapping[str, Source], rows: Iterable[int], seed: int) -> Batch:
    """Some samples of a split as a batch, always the same for a seed."""
    return prepare_batch([samples[row] for row in rows], sources, generator(seed, "prepare", "first"))


def spread_rows(samples: Samples, fields: Collection[str], most: int) -> list[int]:
    """Samples that have all of these fields, at most so many, drawn from all over a split: it may lie class by class.

    Args:
        samples: The split, which alone says which are drawn.
        fields: What they must have.
        most: How many.

    Returns:
        Their indices, ascending.
    """
    order = torch.randperm(len(samples), generator=generator(0, "spread rows")).tolist()
    found: list[int] = []
    start, wanted = 0, set(fields)
    while start < len(order) and len(found) < most:
        end = start + most - len(found)
        # Ascending, as what is read from a disk or a network is best read
        found += [index for index in sorted(order[start:end]) if wanted <= samples[index].keys()]
        start = end
    return sorted(found)
