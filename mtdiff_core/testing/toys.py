"""Components of the kit's own, which others are joined with. Letters for shapes: B batch, F feature channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional

from mtdiff_core.codecs import ConvolutionalGaussianDecoder, IdentityEncoder
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.backbone import Backbone, Context, ContextShape, Features, FeatureShapes
from mtdiff_core.interfaces.codec import Decoder, Encoder, NoisySlot
from mtdiff_core.interfaces.component import component
from mtdiff_core.interfaces.modality import Modality

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import FieldSpec, Shape

T = TypeVar("T")
CHANNELS, POOLED = 8, 16


def by_default(cls: type[T]) -> T:
    """A component with the defaults of its options."""
    return cls()


@component
class ToyModality(Modality):
    """What toys share: their values are the field's own."""

    def check(self, spec: FieldSpec) -> None:
        """The kit knows what it gives."""

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """As they are."""
        return values

    def natural(self, values: Tensor) -> Tensor:
        """As they are."""
        return values

    def parse(self, text: str) -> Tensor:
        """Nobody writes a toy."""
        raise UserError("a toy has no text")


@component
class Ground(ToyModality):
    """A field ``(c, H, W)`` of numbers that lies in the space as it is."""

    one_to_one: ClassVar[bool] = True

    def anchor_shape(self) -> Shape:
        """The field's own."""
        return self.spec.shape

    def block_channels(self) -> int:
        """The field's own."""
        return self.spec.shape[0]

    def encoder(self, slot: Shape) -> Encoder:
        """The identity."""
        return IdentityEncoder()

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """Normal entries."""
        return ConvolutionalGaussianDecoder(features, slot[0])


@component
class Side(ToyModality):
    """One of two classes."""

    table_kind: ClassVar[str] = "labels"

    def encoder(self, slot: Shape) -> Encoder:
        """-1 or 1 everywhere."""
        return SideEncoder(slot)

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A linear map of the pooled features."""
        return SideDecoder(features.pooled)


class SideEncoder(Encoder):
    """-1 or 1 everywhere in a slot."""

    def __init__(self, slot: Shape) -> None:
        super().__init__()
        self.slot = slot

    def forward(self, values: Tensor) -> Tensor:
        """Classes ``(B,)`` to ``(B, c, H, W)``."""
        return (2.0 * values - 1)[:, None, None, None].expand(-1, *self.slot)

    def expected(self, distribution: Distribution) -> Tensor:
        """``p_1 - p_0``."""
        bright = cast("Categorical", distribution).probs[:, 1]  # (B,)
        return (2 * bright - 1)[:, None, None, None].expand(-1, *self.slot)


class SideDecoder(Decoder):
    """A linear map of the pooled features."""

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pooled, 2)

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(side | z_t)``."""
        return Categorical(logits=self.layer(features.pooled).float(), validate_args=False)


@component
class ToyBackbone(Backbone):
    """A network that learns a picture or two in a second: two convolutions, and a view of everything at once."""

    def feature_shapes(self, space: Shape) -> FeatureShapes:
        """Eight channels, and sixteen pooled."""
        _, height, width = space
        return FeatureShapes(
            map=(CHANNELS, height, width), bottleneck=(CHANNELS, -(-height // 2), -(-width // 2)), pooled=POOLED
        )

    def build(self, space: Shape, context: ContextShape) -> nn.Module:
        """The network."""
        return ToyNetwork(space, context)


class ToyNetwork(nn.Module):
    """The network of :class:`ToyBackbone`."""

    def __init__(self, space: Shape, context: ContextShape) -> None:
        super().__init__()
        channels, height, width = space
        self.first = nn.Conv2d(channels + context.channels + 1, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.view = nn.Linear(CHANNELS * height * width + context.flags + 1, POOLED)
        self.back = nn.Linear(POOLED, CHANNELS)

    def forward(self, z: Tensor, log_snr: Tensor, context: Context) -> Features:
        """``(B, C, H, W)``, ``(B,)`` and what is known to features."""
        time = torch.sigmoid(log_snr.float() / 4)[:, None]  # (B, 1): finite at both ends
        plane = time[:, :, None, None].expand(-1, 1, *z.shape[2:]).to(z.dtype)
        hidden = functional.silu(self.first(torch.cat([z, context.observed, plane], dim=1)))  # (B, F, H, W)
        seen = torch.cat([hidden.flatten(1), context.flags, time.to(z.dtype)], dim=1)
        pooled = functional.silu(self.view(seen))  # (B, POOLED)
        hidden = hidden + functional.silu(self.second(hidden)) + self.back(pooled)[:, :, None, None]
        bottleneck = functional.avg_pool2d(hidden, 2, ceil_mode=True)
        return Features(map=hidden, bottleneck=bottleneck, pooled=pooled)
