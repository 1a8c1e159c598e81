"""The backbone keeps the promises of the plugin API."""

from mtdiff_core.testing import BackboneKit


class TestPluginName(BackboneKit):
    component = "plugin-name"
    options = {"channels": 16, "blocks": 2}
