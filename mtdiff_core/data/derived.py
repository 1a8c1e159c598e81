"""Fields that modalities derive from a split (``Modality.derive``), beside those of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from mtdiff_core.errors import UserError, located
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.registry.results import maker_of

if TYPE_CHECKING:
    from mtdiff_core.data.batches import Source
    from mtdiff_core.interfaces.dataset import Samples
    from mtdiff_core.interfaces.workshop import Workshop


def with_derived(
    samples: Samples, sources: Mapping[str, Source], workshop: Workshop
) -> tuple[Samples, dict[str, Source]]:
    """A split with the fields that the modalities derive from it, and the sources that read those.

    Args:
        samples: Any split; every split that batches are made from has to pass here.
        sources: What the modalities read in the data set.
        workshop: What :meth:`Modality.derive` works with.

    Raises:
        UserError: A modality cannot derive its values for this split; the message names it.
    """
    derived: dict[str, Derived] = {}
    for name, source in sources.items():
        with located(f"modalities.{name}"):
            values = source.modality.derive(samples, source.field, workshop)
        if values is not None and not (isinstance(values, Tensor) and values.ndim and len(values) == len(samples)):
            what = (
                f"{maker_of(source.modality)}: derive must give a tensor with a row for each of {len(samples)} samples"
            )
            raise UserError(what, f"modalities.{name}")
        if values is not None:
            spec = FieldSpec(shape=tuple(values.shape[1:]), dtype=str(values.dtype).removeprefix("torch."))
            # No data set calls a field so.
            derived[f"{source.field} for {name}"] = Derived(reader=name, origin=source.field, spec=spec, values=values)
    read = {
        one.reader: attrs.evolve(sources[one.reader], field=field, derived=one.spec) for field, one in derived.items()
    }
    return (DerivedSamples(samples, derived) if derived else samples), {**sources, **read}


@attrs.frozen(kw_only=True)
class Derived:
    """A derived field.

    Attributes:
        reader: The modality that derived it, and reads it.
        origin: The field it is derived from; samples that lack one lack the other.
        spec: What it holds.
        values: ``(N, *spec.shape)``.
    """

    reader: str
    origin: str
    spec: FieldSpec
    values: Tensor


class DerivedSamples:
    """A split with derived fields beside its own.

    Args:
        samples: The split.
        derived: The derived fields by name.
    """

    def __init__(self, samples: Samples, derived: Mapping[str, Derived]) -> None:
        self.fields = {**samples.fields, **{field: one.spec for field, one in derived.items()}}
        self._samples, self._derived = samples, dict(derived)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Sample ``index`` with the derived values whose origin it has."""
        sample = self._samples[index]
        return {
            **sample,
            **{field: one.values[index] for field, one in self._derived.items() if one.origin in sample},
        }
