"""The modality keeps the promises of the plugin API, and measures what it says."""

import torch
from mtdiff_core.testing import ModalityKit
from mtdiff_plugin_name import measure


class TestPluginName(ModalityKit):
    component = "plugin-name"
    options = {"hidden": 32}
    texts = ("0.3,0.35",)


def test_a_picture_is_measured():
    grey = torch.full((1, 1, 4, 4), 51, dtype=torch.uint8)
    halves = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(8).reshape(1, 1, 4, 4)
    torch.testing.assert_close(measure(grey), torch.tensor([[0.2, 0.0]]))
    torch.testing.assert_close(measure(halves), torch.tensor([[0.5, (16 / 15) ** 0.5 / 2]]))
