"""A backbone: the network that all modalities share. It lies in network.py, so that listing plugins needs no torch."""

from mtdiff_core import Backbone, FeatureShapes, component, hookimpl, option

MTDIFF_PLUGIN_API = "1.0"


@component
class PluginName(Backbone):
    """Residual convolutions at full resolution, each seeing twice as far as the one before."""

    channels: int = option(32, help="feature channels", minimum=1)
    blocks: int = option(3, help="residual blocks; the last sees 2^blocks pixels around", minimum=1, maximum=8)

    def feature_shapes(self, space):
        _, height, width = space
        coarse = (self.channels, (height + 1) // 2, (width + 1) // 2)
        return FeatureShapes(map=(self.channels, height, width), bottleneck=coarse, pooled=self.channels)

    def build(self, space, context):
        from mtdiff_plugin_name.network import Network

        return Network(self.channels, self.blocks, space, context)


@hookimpl
def mtdiff_backbones():
    return {"plugin-name": PluginName}
