"""Options of the U-Net backbone; the network itself is in ``unet_network``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.backbone import Backbone, ContextShape, FeatureShapes
from mtdiff_core.interfaces.component import component, option

if TYPE_CHECKING:
    from torch import nn

    from mtdiff_core.interfaces.dataset import Shape


@component
class UNet(Backbone):
    """Convolutional U-Net in the manner of ADM (Dhariwal and Nichol 2021, arXiv 2105.05233)."""

    channels: int = option(32, help="feature channels at full resolution", minimum=8, maximum=4096)
    multipliers: tuple[int, ...] = option(
        (1, 2, 2),
        help="channels at each resolution, in multiples of 'channels'; each entry after the first halves the size",
        minimum=1,
        maximum=64,
    )
    blocks: int = option(2, help="residual blocks at each resolution", minimum=1, maximum=16)
    attention: tuple[int, ...] = option((8, 4), help="heights of the feature maps that get self-attention", minimum=1)
    head_channels: int = option(32, help="channels of one attention head", minimum=4, maximum=1024)
    dropout: float = option(0.0, help="dropout in the residual blocks", minimum=0, maximum=0.9)

    def feature_shapes(self, space: Shape) -> FeatureShapes:
        """The full-resolution map has ``channels * multipliers[0]`` channels, the bottleneck the last multiple."""
        self._check(space)
        _, height, width = space
        shrink = 2 ** (len(self.multipliers) - 1)
        top, bottom = self.channels * self.multipliers[0], self.channels * self.multipliers[-1]
        return FeatureShapes(
            map=(top, height, width),
            bottleneck=(bottom, height // shrink, width // shrink),
            pooled=top + bottom,
        )

    def build(self, space: Shape, context: ContextShape) -> nn.Module:
        """The network."""
        from mtdiff_core.backbones.unet_network import UNetNetwork

        self._check(space)
        return UNetNetwork(self, space, context)

    def _check(self, space: Shape) -> None:
        """Raise ``UserError`` if the options do not fit each other or the space."""
        if not self.multipliers:
            raise UserError("needs at least one entry", "backbone.multipliers", "for example: multipliers = [1, 2, 3]")
        halvings = len(self.multipliers) - 1
        _, height, width = space
        if height % 2**halvings or width % 2**halvings:
            raise UserError(
                f"{halvings + 1} resolutions need a size that is a multiple of {2**halvings}, not {height}x{width}",
                "backbone.multipliers",
                "each entry after the first halves the size: change the size, or use fewer entries",
            )
        attended = {self.channels * m for i, m in enumerate(self.multipliers) if height >> i in self.attention}
        for channels in sorted(attended | {self.channels * self.multipliers[-1]}):
            if channels % self.head_channels:
                raise UserError(
                    f"{channels} channels cannot be divided into attention heads of {self.head_channels}",
                    "backbone.head_channels",
                    "use a divisor of channels times every multiplier that has attention",
                )
