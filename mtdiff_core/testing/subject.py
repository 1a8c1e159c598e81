"""A modality with all that it is checked with. Letters for shapes: B batch, c channels of the slot, H W its size."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.backbone import Features, FeatureShapes
from mtdiff_core.interfaces.codec import Decoder, Encoder, NoisySlot
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.testing.modules import awake

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import FieldSpec, Shape
    from mtdiff_core.interfaces.modality import Modality

ROWS = 64  # samples of the training split
BATCH = 6
NOISE = 0.8  # level of slots
SURE = 4.0  # nats an entry: a density that is narrow, and not yet so narrow that numbers overflow


@attrs.frozen(kw_only=True, eq=False)
class Subject:
    """A modality, bound and fitted.

    Attributes:
        modality: It.
        rows: What :meth:`Modality.prepare` gets: field values, or what was derived from them, ``(ROWS, ...)``.
        size: Height and width of the space.
        slots: Slots that it takes: as the anchor or in a block of its own, then in spaces that it shares.
    """

    modality: Modality
    rows: Tensor
    size: tuple[int, int]
    slots: tuple[Shape, ...]

    def prepared(self, count: int = BATCH) -> Tensor:
        """Model values ``(count, ...)``, always the same."""
        return self.modality.prepare(self.rows[:count].clone(), generator(0, "kit", "prepare"))

    @property
    def slot(self) -> Shape:
        """The first of them."""
        return self.slots[0]

    @property
    def features(self) -> FeatureShapes:
        """Shapes of the features that its head gets."""
        height, width = self.slot[1:]
        return FeatureShapes(map=(8, height, width), bottleneck=(12, -(-height // 2), -(-width // 2)), pooled=10)

    def encoder(self, slot: Shape | None = None, seed: int = 0) -> Encoder:
        """Its encoder, as it is built, in evaluation mode."""
        with global_stream(seed, "kit", "encoder"):
            return self.modality.encoder(slot or self.slot).eval()

    def decoder(self, slot: Shape | None = None, seed: int = 0) -> Decoder:
        """Its head, as it is built, in evaluation mode."""
        with global_stream(seed, "kit", "decoder"):
            return self.modality.decoder(slot or self.slot, self.features).eval()

    def random_features(self, count: int = BATCH, stream: str = "a") -> Features:
        """Features of so many samples."""
        random, shapes = generator(0, "kit", "features", stream), self.features
        return Features(
            map=torch.randn(count, *shapes.map, generator=random),
            bottleneck=torch.randn(count, *shapes.bottleneck, generator=random),
            pooled=torch.randn(count, shapes.pooled, generator=random),
        )

    def noisy_slot(self, count: int = BATCH, slot: Shape | None = None, signal: float = 0.0) -> NoisySlot:
        """What ``z_t`` says of so many samples; with a signal of 0 nothing."""
        shape = slot or self.slot
        z = NOISE * torch.randn(count, *shape, generator=generator(0, "kit", "noise"))
        if signal:
            z = z + signal * self.encoder(slot)(self.prepared(count)).detach()
        level = torch.ones(count, shape[0], 1, 1)
        return NoisySlot(z=z, coefficient=signal * level, variance=NOISE**2 * level, clarity=torch.ones(count))


def made_subject(modality: Modality, spec: FieldSpec, values: Tensor, size: tuple[int, int]) -> Subject:
    """Bind a modality to field values ``(N, *spec.shape)``, and let it learn from them."""
    learnt, derived = fitted(modality, spec, values)
    rows = values if derived is None else derived
    return Subject(modality=learnt, rows=rows, size=size, slots=_slots_of(learnt, size))


def fitted(
    modality: Modality, spec: FieldSpec, values: Tensor, lacking: Collection[int] = ()
) -> tuple[Modality, Tensor | None]:
    """A modality that has learnt from field values, and what it derives from them.

    Args:
        modality: The modality.
        spec: What the field holds.
        values: The field's values, ``(N, *spec.shape)``.
        lacking: Samples that lack them.
    """
    samples = _Samples({"field": spec}, {"field": values}, lacking)
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(torch.device("cpu"), seed=0, cache=Path(folder))
        state = modality.bind(spec).fit(samples, "field", workshop)
        learnt = modality.bind(spec, {name: x.contiguous().clone() for name, x in state.items()})
        return learnt, learnt.derive(samples, "field", workshop)


class _Samples(TensorSamples):
    """Samples some of which lack everything."""

    def __init__(
        self, fields: Mapping[str, FieldSpec], tensors: Mapping[str, Tensor], lacking: Collection[int]
    ) -> None:
        super().__init__(fields, tensors)
        self._lacking = lacking

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {} if index in self._lacking else super().__getitem__(index)


def _slots_of(modality: Modality, size: tuple[int, int]) -> tuple[Shape, ...]:
    """The slot of its own, and those that it does not refuse."""
    own = tuple(modality.anchor_shape()) if modality.one_to_one else (modality.block_channels(), *size)
    slots: list[Shape] = [own]
    for channels in (1, 3):
        try:
            modality.encoder((channels, *own[1:]))
        except UserError:
            continue
        slots.append((channels, *own[1:]))
    return tuple(dict.fromkeys(slots))


class ShapesOnlySlot(NoisySlot):
    """A slot on the device that only knows shapes, which autocast does not know."""

    def evidence_of(self, codes: Tensor) -> Tensor:
        """See :class:`NoisySlot`."""
        return torch.einsum("bchw,kchw->bk", self.evidence.float(), codes.float())


def moved(slot: NoisySlot, device: torch.device) -> NoisySlot:
    """A slot elsewhere."""
    kind = ShapesOnlySlot if device.type == "meta" else NoisySlot
    return kind(**{name: x.to(device) for name, x in vars(slot).items()})


def rows_of(slot: NoisySlot, rows: slice) -> NoisySlot:
    """Some samples of a slot."""
    return NoisySlot(**{name: x[rows] for name, x in vars(slot).items()})


def certain(subject: Subject, steps: int = 60) -> Distribution:
    """What a head says that was trained to be ever surer of whatever it takes to be likeliest.

    It is not asked for given values: a normal distribution narrows faster than its mean arrives there.
    """
    decoder, slot, made = awake(subject.decoder()), subject.noisy_slot(), subject.random_features()
    features = Features(**{name: x.requires_grad_() for name, x in vars(made).items()})
    optimizer = torch.optim.Adam([*decoder.parameters(), *vars(features).values()], lr=0.03)
    for _ in range(steps):
        said = decoder(features, slot)
        log_prob = said.log_prob(said.mode.detach()) / max(1, said.event_shape.numel())  # (B,)
        if float(log_prob.detach().min()) > SURE:
            break
        optimizer.zero_grad()
        (-log_prob.sum()).backward()
        optimizer.step()
    with torch.no_grad():
        surest: Distribution = decoder(features, slot)
    return surest
