"""Modality: one kind of data. This is the class that a plugin author writes.

Values take three forms, and each door between them is one method:

    field value   as the data set gives it           uint8 0..255, int64
    model value   what encoders and decoders see     float32 -1..1, int64       prepare(), parse()
    natural value what a user reads and writes       float32 0..1, int64        natural()

A modality may learn from the training split before the model is built (:meth:`Modality.fit`), and may read a value
that is derived from the field, once for each sample, in place of the field itself (:meth:`Modality.derive`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs

from mtdiff_core.interfaces.component import Component, component
from mtdiff_core.interfaces.dataset import FieldSpec, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor
    from torch.distributions import Distribution

    from mtdiff_core.interfaces.backbone import FeatureShapes
    from mtdiff_core.interfaces.codec import Decoder, Encoder
    from mtdiff_core.interfaces.dataset import Samples
    from mtdiff_core.interfaces.workshop import Workshop


@component
class Modality(Component, ABC):
    """One kind of data: how it is prepared, encoded, decoded, read and shown.

    An instance holds the options of one ``[modalities.NAME]`` table. :meth:`bind` gives a copy that also knows
    the field it reads, ``self.spec``; every method below :meth:`bind` is called on bound copies only, and every one
    below :meth:`fit` on copies that also have its result, ``self.state``.

    Attributes:
        one_to_one: Whether the encoder is an ``InvertibleEncoder``, so that the modality can be the anchor.
        example: A text that :meth:`parse` might be given, for help texts.
        state: What :meth:`fit` gave, on the host; empty before that.
        table_kind: The option of the data set ``table`` that reads what :meth:`write` gives.
    """

    one_to_one: ClassVar[bool] = False
    example: ClassVar[str] = "VALUE"
    table_kind: ClassVar[str] = "vectors"

    bound_to: FieldSpec | None = attrs.field(default=None, repr=False)
    # Tensors: types of fields are resolved when options are listed, which must not import torch.
    state: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def spec(self) -> FieldSpec:
        """The field that this modality reads."""
        if self.bound_to is None:
            raise RuntimeError(f"{type(self).__name__} is not bound to a field yet")
        return self.bound_to

    def bind(self, spec: FieldSpec, state: Mapping[str, Tensor] | None = None) -> Self:
        """A copy that reads a field of this kind, and has learnt ``state``.

        Raises:
            UserError: The field does not hold what this modality needs.
        """
        self.check(spec)
        return attrs.evolve(self, bound_to=spec, state=dict(state or {}))  # type: ignore[misc]

    @abstractmethod
    def check(self, spec: FieldSpec) -> None:
        """Raise ``UserError`` unless the field holds what this modality needs, saying what that is."""

    def fit(self, samples: Samples, field: str, workshop: Workshop) -> Mapping[str, Tensor]:
        """Learn from the training split, once, before the model is built.

        What is returned becomes ``self.state`` and is saved with the model, so that a trained model needs neither the
        data nor this method.

        Args:
            samples: The training split; of one that is read as a stream, its first samples.
            field: The field that this modality reads.
            workshop: Device, seed, cache and progress.

        Returns:
            Tensors by name, on the host; none if there is nothing to learn.

        Raises:
            UserError: Nothing can be learnt from this data.
        """
        return {}

    def derive(self, samples: Samples, field: str, workshop: Workshop) -> Tensor | None:
        """Values that :meth:`prepare` gets in place of the field's own, for every split that is used.

        A modality that does this cannot be trained on a stream.

        Args:
            samples: The split.
            field: The field that this modality reads.
            workshop: Device, seed, cache and progress.

        Returns:
            ``(N, ...)`` on the host, a row for each sample (for one that lacks the field: any value, since it stays
            absent); None to read the field itself.

        Raises:
            UserError: The values cannot be derived for this split.
        """
        return None

    def anchor_shape(self) -> Shape:
        """Shape ``(C, H, W)`` of the encoding as the anchor; only where ``one_to_one``."""
        raise TypeError(f"{type(self).__name__} is not one-to-one, so it has no anchor shape")

    def block_channels(self) -> int:
        """Channels it takes where an aggregator gives it a block of its own."""
        return 1

    @abstractmethod
    def encoder(self, slot: Shape) -> Encoder:
        """Build the encoder into a slot of shape ``(c, H, W)``.

        Raises:
            UserError: Values of this kind cannot be encoded into such a slot.
        """

    @abstractmethod
    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """Build the head that gives ``p(x_i | z_t)``; not used for the anchor, which is read off the space."""

    @abstractmethod
    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Field values ``(B, *spec.shape)``, or rows of what :meth:`derive` gave, to model values, on the host.

        Whatever is random in what a value is (a mask, say) is drawn from ``generator`` and nothing else. What is drawn
        for a row must not depend on the values of others: where several processes train, theirs are not there.

        Raises:
            UserError: A value is out of range.
        """

    def augment(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Model values, changed at random for training alone; what is given or held out never passes here.

        As in :meth:`prepare`, what is drawn for a row must not depend on the values of others.
        """
        return values

    @abstractmethod
    def natural(self, values: Tensor) -> Tensor:
        """Model values to natural units, as they are written to files."""

    def write(self, values: Tensor, folder: Path, stems: Sequence[str]) -> list[Any]:
        """Write model values as a data set keeps them, and say for each sample what stands in the data set's manifest.

        By default the natural values, a list of numbers a sample, and no files.

        Args:
            values: ``(B, ...)``.
            folder: Where files go, if this kind is kept in files. It lies beside the manifest, and may not exist yet.
            stems: A name for each sample's file, without suffix.

        Returns:
            JSON data for each sample: a file's path relative to the manifest, ``"{folder.name}/{stem}.png"``, or the
            value itself.

        Raises:
            UserError: A file cannot be written.
        """
        return self.natural(values).reshape(len(values), -1).tolist()

    def table_options(self) -> dict[str, Any]:
        """Options of the data set ``table`` beside ``table_kind``, to read what :meth:`write` wrote as it was."""
        return {}

    @abstractmethod
    def parse(self, text: str) -> Tensor:
        """What a user writes after ``--given NAME=`` to model values ``(n, ...)``, one or more samples.

        Raises:
            UserError: The text cannot be read as such values; the message says what can.
        """

    def log_likelihood(self, distribution: Distribution, values: Tensor) -> Tensor:
        """``log p(x)`` of model values ``(B, ...)`` under a decoded distribution, in nats, ``(B,)``.

        By default what the distribution says, a density where values are continuous. A modality whose values were
        rounded, such as 8-bit pictures, integrates the density over what is rounded to the same value
        (``mtdiff_core.codecs.log_mass_of_rounded``), so that bits per dimension compare with others'. As the anchor,
        whose distribution is a normal one, it may do so only if its encoder is the identity.
        """
        log_prob: Tensor = distribution.log_prob(values)
        return log_prob

    def render(self, values: Tensor) -> Tensor | None:
        """Model values as pictures, uint8 ``(B, 3, h, w)``; None if this kind is better read than looked at."""
        return None

    def describe(self, values: Tensor, distribution: Distribution | None = None) -> list[str] | None:
        """Model values in words, one short text a sample; None if this kind is better looked at than read.

        ``distribution``, where values were decoded, is ``p(x_i | z)`` that they were decoded from.
        """
        return None
