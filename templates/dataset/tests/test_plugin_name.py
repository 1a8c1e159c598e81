"""The data set keeps the promises of the plugin API, and holds what it says."""

from mtdiff_core.testing import DatasetKit
from mtdiff_plugin_name import PluginName


class TestPluginName(DatasetKit):
    component = "plugin-name"
    options = {"size": 8, "count": 20}


def test_bars_lie_and_stand_as_labelled():
    samples = PluginName(size=8, count=20).open("train")
    for index in range(len(samples)):
        picture, label = samples[index]["image"][0], samples[index]["label"]
        assert int(picture.any(dim=1).sum()) == (2 if label == 0 else 8)
