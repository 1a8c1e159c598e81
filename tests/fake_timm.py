"""Stands in for timm, which tests do without."""

import types

from torch import nn


class FakeTimm(types.ModuleType):
    """As much of timm as is called."""

    def __init__(self):
        super().__init__("timm")
        self.data = types.SimpleNamespace(
            resolve_model_data_config=lambda network: {
                "input_size": (3, 14, 14), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            }
        )  # fmt: skip

    @staticmethod
    def network():
        """Its only network, whose last layer is the classifier."""
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 5), nn.Linear(5, 7))

    def is_model(self, name):
        return name in self.list_models()

    def list_models(self):
        return ["vit_tiny"]

    def create_model(self, name, pretrained, pretrained_cfg_overlay):
        assert pretrained
        network = self.network()
        network.load_state_dict(pretrained_cfg_overlay["state_dict"])
        network.reset_classifier = lambda classes: network.pop(2)
        return network
