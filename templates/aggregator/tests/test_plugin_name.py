"""The aggregator keeps the promises of the plugin API, and its curve is what it says."""

import torch
from mtdiff_core.testing import AggregatorKit
from mtdiff_plugin_name import ModalityOptions, PluginName


class TestPluginName(AggregatorKit):
    component = "plugin-name"


def test_a_modality_is_carried_halfway_and_not_at_the_ends():
    time = torch.tensor([0.0, 0.25, 0.5]) * torch.pi
    carried = PluginName().coefficient(ModalityOptions(strength=0.5), time.cos(), time.sin())
    torch.testing.assert_close(carried, torch.tensor([0.0, 0.5, 0.0]), atol=1e-6, rtol=0)
