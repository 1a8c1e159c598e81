"""The components that come with the core, registered like any plugin's."""

from __future__ import annotations

from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.backbones.unet import UNet
from mtdiff_core.interfaces.aggregator import Aggregator
from mtdiff_core.interfaces.backbone import Backbone
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.schedule import CosineSchedule, LinearSchedule, NoiseSchedule, RectifiedFlowSchedule

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_aggregators() -> dict[str, type[Aggregator]]:
    """One shared space, or a block for each modality."""
    return {"linear": LinearAggregator, "blocks": BlocksAggregator}


@hookimpl
def mtdiff_backbones() -> dict[str, type[Backbone]]:
    """The U-Net."""
    return {"unet": UNet}


@hookimpl
def mtdiff_schedules() -> dict[str, type[NoiseSchedule]]:
    """Cosine, linear beta, rectified flow."""
    return {"cosine": CosineSchedule, "linear": LinearSchedule, "rectified-flow": RectifiedFlowSchedule}
