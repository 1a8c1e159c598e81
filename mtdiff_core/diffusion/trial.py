"""Encoders and decoders tried once, on two samples, before anything is trained with them or sampled from them.

Letters for shapes: B batch; (c, H, W) the slot of a modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.backbone import Features
from mtdiff_core.interfaces.codec import NoisySlot
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.registry.plugin import PluginError
from mtdiff_core.registry.results import in_name_of

if TYPE_CHECKING:
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.interfaces.backbone import FeatureShapes
    from mtdiff_core.interfaces.dataset import Shape

BATCH = 2  # the least that tells a batch from what is the same for all samples


@torch.no_grad()
def try_codecs(model: MultiModalDiffusion, modalities: Mapping[str, Modality], shapes: FeatureShapes) -> None:
    """Encode a value of each modality and decode one of each that is decoded.

    A tensor of another shape might be broadcast in silence. The model, and all random numbers, stay as they are. What
    has to learn from data first is tried once it has.

    Args:
        model: The joint model, on the host.
        modalities: Its modalities, bound.
        shapes: Of what its backbone gives.

    Raises:
        UserError: What an encoder or a decoder gives is not what it has to be; the message names its plugin.
    """
    with _at_rest(model), global_stream(0, "trial"):
        features = Features(
            map=torch.randn(BATCH, *shapes.map),
            bottleneck=torch.randn(BATCH, *shapes.bottleneck),
            pooled=torch.randn(BATCH, shapes.pooled),
        )
        for name, modality in modalities.items():
            if type(modality).fit is not Modality.fit and not modality.state:
                continue  # it has not learnt yet what its methods need
            with in_name_of(modality, f"modalities.{name}"):
                _try_codec(model, name, _values(modality), features)


def _try_codec(model: MultiModalDiffusion, name: str, values: Tensor | None, features: Features) -> None:
    """Try the codec of one modality, with model values if there are some."""
    encoder, slot = model.encoder(name), model.process.layout.slot_shape(name)
    if values is not None:
        _check_encoding("the encoding of its values", encoder(values), slot)
    if name != model.anchor:
        said = model.decoder(name)(features, _noisy(slot))
        _check_distribution(said, values)
        _check_encoding("the encoding expected under its decoder's distribution", encoder.expected(said), slot)


def _values(modality: Modality) -> Tensor | None:
    """Model values of fields that hold 0, which stand for missing ones; None where that takes more than the field."""
    if type(modality).derive is not Modality.derive:
        return None
    spec = modality.spec
    field = torch.zeros(BATCH, *spec.shape, dtype=getattr(torch, spec.dtype))
    try:
        values: object = modality.prepare(field, generator(0, "trial"))
    except UserError:  # where nothing is missing, 0 need not be a value
        return None
    if not (isinstance(values, Tensor) and values.ndim and len(values) == BATCH):
        raise PluginError(f"prepare must give a tensor with {BATCH} rows for {BATCH} values, and gives {_kind(values)}")
    return values


def _kind(value: object) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _noisy(slot: Shape) -> NoisySlot:
    level = torch.ones(BATCH, slot[0], 1, 1)
    return NoisySlot(z=torch.randn(BATCH, *slot), coefficient=level, variance=level, clarity=torch.ones(BATCH))


def _check_encoding(what: str, encoding: object, slot: Shape) -> None:
    expected = (BATCH, *slot)
    if not isinstance(encoding, Tensor) or tuple(encoding.shape) != expected:
        raise PluginError(f"{what} must be a tensor of shape {expected}, as its slot is, and is {_kind(encoding)}")


def _check_distribution(said: object, values: Tensor | None) -> None:
    if not isinstance(said, Distribution):
        raise PluginError(f"its decoder must give a torch.distributions.Distribution, and gives {type(said).__name__}")
    batch, event = tuple(said.batch_shape), tuple(said.event_shape)
    expected = event if values is None else tuple(values.shape[1:])
    if (batch, event) != ((BATCH,), expected):
        raise PluginError(
            f"its decoder's distribution must be of batch_shape {(BATCH,)} and event_shape {expected}, "
            f"that of a value, and is of {batch} and {event}; see torch.distributions.Independent"
        )


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing in the model counts what passes through it."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
