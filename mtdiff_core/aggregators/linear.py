"""All encodings are added in one shared space: the paper's own aggregation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core.aggregators.curves import CurveOptions
from mtdiff_core.interfaces.aggregator import Aggregator, Layout
from mtdiff_core.interfaces.component import component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mtdiff_core.interfaces.dataset import Shape


@component
class LinearAggregator(Aggregator):
    """One shared space of the anchor's shape; the others are added to it with a named curve."""

    ModalityOptions = CurveOptions

    def layout(self, anchor: str, anchor_shape: Shape, block_channels: Mapping[str, int]) -> Layout:
        """Every modality writes to all channels."""
        everything = (0, anchor_shape[0])
        return Layout(space=anchor_shape, slots=dict.fromkeys((anchor, *block_channels), everything))

    def coefficient(self, options: CurveOptions, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The modality's named curve."""
        return options.coefficient(alpha, sigma)

    def carries(self, options: CurveOptions) -> bool:
        """Whether its curve is ever other than 0."""
        return options.carries()
