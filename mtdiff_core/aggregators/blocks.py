"""Each modality in channels of its own: stacked joint diffusion as a case of the same sum (method section 5)."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from mtdiff_core.aggregators.curves import CURVES, CurveOptions
from mtdiff_core.interfaces.aggregator import Aggregator, Layout
from mtdiff_core.interfaces.component import component, option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mtdiff_core.interfaces.dataset import Shape


@component
class BlockOptions(CurveOptions):
    """Keys of a modality with a block of its own."""

    curve: str = option(
        "proportional",
        choices=tuple(CURVES),
        help="c_t: proportional = a (diffused like the anchor); fading = 2.6 a s^2; early = 3.5 a s^4; none = 0",
    )
    log_snr_shift: float = option(
        0.0,
        help="added to the block's log-SNR: above 0 it is decided earlier than the anchor",
        minimum=-10,
        maximum=10,
    )


@component
class BlocksAggregator(Aggregator):
    """A block of channels for each modality, the anchor's first."""

    ModalityOptions = BlockOptions

    def layout(self, anchor: str, anchor_shape: Shape, block_channels: Mapping[str, int]) -> Layout:
        """Blocks one after another, in the order of the recipe."""
        widths = {anchor: anchor_shape[0], **block_channels}
        stops = list(accumulate(widths.values()))
        slots = {name: (stop - width, stop) for (name, width), stop in zip(widths.items(), stops, strict=True)}
        return Layout(space=(stops[-1], *anchor_shape[1:]), slots=slots)

    def coefficient(self, options: BlockOptions, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The modality's named curve."""
        return options.coefficient(alpha, sigma)

    def carries(self, options: BlockOptions) -> bool:
        """Whether its curve is ever other than 0."""
        return options.carries()

    def log_snr_shift(self, options: BlockOptions) -> float:
        """The modality's own shift."""
        return options.log_snr_shift
