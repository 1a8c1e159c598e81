"""Backbone: the one network that all modalities share.

Letters for shapes: B batch, C channels of the diffusion space, H W its height and width, F feature channels,
K channels of the context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import attrs

from mtdiff_core.interfaces.component import Component

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtdiff_core.interfaces.dataset import Shape


@attrs.frozen(kw_only=True)
class FeatureShapes:
    """Shapes of :class:`Features` for one sample, known before the network is built.

    Attributes:
        map: ``(F, H, W)``.
        bottleneck: ``(F, h, w)``.
        pooled: Length of the pooled vector.
    """

    map: Shape
    bottleneck: Shape
    pooled: int


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the backbone gives to every decoder.

    Attributes:
        map: Full resolution, ``(B, F, H, W)``: for what has a place, such as pixels.
        bottleneck: Coarsest resolution, ``(B, F, h, w)``.
        pooled: One vector a sample, ``(B, F)``: for what has no place, such as a class.
    """

    map: Tensor
    bottleneck: Tensor
    pooled: Tensor


@attrs.frozen(kw_only=True)
class ContextShape:
    """Shape of :class:`Context` for one sample, known before the network is built.

    Attributes:
        channels: K, channels of the observed encodings; 0 where nothing is ever observed.
        flags: Number of flags, at least 1.
    """

    channels: int
    flags: int


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the backbone is told besides the noisy point (method section 5).

    Attributes:
        observed: Encodings of what is known, 0 elsewhere, ``(B, K, H, W)``.
        flags: What is missing and what is known, 0 or 1, ``(B, flags)``; all 0 where everything is there, and noisy.
    """

    observed: Tensor
    flags: Tensor


class Backbone(Component, ABC):
    """Options of a backbone, and how to build its network."""

    __slots__ = ()

    @abstractmethod
    def feature_shapes(self, space: Shape) -> FeatureShapes:
        """Shapes of the features for a diffusion space of shape ``(C, H, W)``.

        Raises:
            UserError: The backbone cannot work on this space; the message names the option to change.
        """

    @abstractmethod
    def build(self, space: Shape, context: ContextShape) -> nn.Module:
        """The network: ``forward(z, log_snr, context) -> Features``.

        ``z`` is ``(B, C, H, W)``, the noisy point; ``log_snr`` is ``(B,)``, the log signal-to-noise ratio of the
        process, which may be infinite at either end; ``context`` is a :class:`Context`.
        """
