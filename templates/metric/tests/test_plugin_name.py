"""The metric keeps the promises of the plugin API."""

from mtdiff_core.testing import MetricKit


class TestPluginName(MetricKit):
    component = "plugin-name"
    options = {"share": 0.9}
