"""The conformance kit for plugin authors: name your component, run pytest, and read what is wrong and how to mend it.

class TestArea(ModalityKit):
    component = "area"
    options = {"scale": 2.0}
"""

from __future__ import annotations

from mtdiff_core.testing.aggregator import AggregatorKit
from mtdiff_core.testing.backbone import BackboneKit
from mtdiff_core.testing.components import KITS, check_component
from mtdiff_core.testing.dataset import DatasetKit
from mtdiff_core.testing.kit import CheckFailure, CheckResult, Kit, registry
from mtdiff_core.testing.metric import MetricKit
from mtdiff_core.testing.modality import ModalityKit

__all__ = [
    "KITS",
    "AggregatorKit",
    "BackboneKit",
    "CheckFailure",
    "CheckResult",
    "DatasetKit",
    "Kit",
    "MetricKit",
    "ModalityKit",
    "check_component",
    "registry",
]
