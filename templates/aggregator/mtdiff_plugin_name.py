"""An aggregator: how encodings are added up to the noisy point. Give it another curve in coefficient."""

from mtdiff_core import Aggregator, Layout, component, hookimpl, option

MTDIFF_PLUGIN_API = "1.0"


@component
class ModalityOptions:
    """Keys that it adds to the table of every modality but the anchor."""

    strength: float = option(1.0, help="how strongly the noisy point carries the modality halfway", minimum=0)


@component
class PluginName(Aggregator):
    """One shared space, which carries every modality but the anchor halfway, and neither end: c_t = 2 a s."""

    ModalityOptions = ModalityOptions

    def layout(self, anchor, anchor_shape, block_channels):
        everything = (0, anchor_shape[0])
        return Layout(space=anchor_shape, slots=dict.fromkeys((anchor, *block_channels), everything))

    def coefficient(self, options, alpha, sigma):  # 0 where alpha is: pure noise carries nothing
        return 2 * options.strength * alpha * sigma

    def carries(self, options):
        return options.strength > 0


@hookimpl
def mtdiff_aggregators():
    return {"plugin-name": PluginName}
