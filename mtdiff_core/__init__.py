"""mtdiff: multi-modal diffusion over one shared space.

What plugin authors need is here, and ``PLUGIN_API`` is its version (``mtdiff_core.registry.plugin_api`` says what may
change when). Names are imported when first used, so that a plugin which only declares its components costs no import
of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mtdiff_core.data.samples import TensorSamples as TensorSamples
    from mtdiff_core.errors import MissingSplitError as MissingSplitError
    from mtdiff_core.errors import UserError as UserError
    from mtdiff_core.interfaces.aggregator import Aggregator as Aggregator
    from mtdiff_core.interfaces.aggregator import Layout as Layout
    from mtdiff_core.interfaces.backbone import Backbone as Backbone
    from mtdiff_core.interfaces.backbone import Context as Context
    from mtdiff_core.interfaces.backbone import ContextShape as ContextShape
    from mtdiff_core.interfaces.backbone import Features as Features
    from mtdiff_core.interfaces.backbone import FeatureShapes as FeatureShapes
    from mtdiff_core.interfaces.codec import Decoder as Decoder
    from mtdiff_core.interfaces.codec import Encoder as Encoder
    from mtdiff_core.interfaces.codec import InvertibleEncoder as InvertibleEncoder
    from mtdiff_core.interfaces.codec import NoisySlot as NoisySlot
    from mtdiff_core.interfaces.component import component as component
    from mtdiff_core.interfaces.component import option as option
    from mtdiff_core.interfaces.dataset import DatasetSource as DatasetSource
    from mtdiff_core.interfaces.dataset import FieldSpec as FieldSpec
    from mtdiff_core.interfaces.dataset import Samples as Samples
    from mtdiff_core.interfaces.dataset import SampleStream as SampleStream
    from mtdiff_core.interfaces.dataset import Shape as Shape
    from mtdiff_core.interfaces.dataset import Shard as Shard
    from mtdiff_core.interfaces.dataset import Split as Split
    from mtdiff_core.interfaces.metric import Better as Better
    from mtdiff_core.interfaces.metric import Figure as Figure
    from mtdiff_core.interfaces.metric import Metric as Metric
    from mtdiff_core.interfaces.metric import RealData as RealData
    from mtdiff_core.interfaces.metric import ScoredBatch as ScoredBatch
    from mtdiff_core.interfaces.metric import Scorer as Scorer
    from mtdiff_core.interfaces.modality import Modality as Modality
    from mtdiff_core.interfaces.workshop import Workshop as Workshop
    from mtdiff_core.interfaces.workshop import cache_folder as cache_folder
    from mtdiff_core.interfaces.workshop import content_hash as content_hash
    from mtdiff_core.registry.hookspecs import hookimpl as hookimpl
    from mtdiff_core.registry.plugin_api import PLUGIN_API as PLUGIN_API
    from mtdiff_core.registry.run_info import RunInfo as RunInfo
    from mtdiff_core.schedule import NoiseSchedule as NoiseSchedule
    from mtdiff_core.suggest import did_you_mean as did_you_mean

_HOMES = {
    "TensorSamples": "data.samples",
    "MissingSplitError": "errors",
    "UserError": "errors",
    "Aggregator": "interfaces.aggregator",
    "Layout": "interfaces.aggregator",
    "Backbone": "interfaces.backbone",
    "Context": "interfaces.backbone",
    "ContextShape": "interfaces.backbone",
    "Features": "interfaces.backbone",
    "FeatureShapes": "interfaces.backbone",
    "Decoder": "interfaces.codec",
    "Encoder": "interfaces.codec",
    "InvertibleEncoder": "interfaces.codec",
    "NoisySlot": "interfaces.codec",
    "component": "interfaces.component",
    "option": "interfaces.component",
    "DatasetSource": "interfaces.dataset",
    "FieldSpec": "interfaces.dataset",
    "SampleStream": "interfaces.dataset",
    "Samples": "interfaces.dataset",
    "Shape": "interfaces.dataset",
    "Shard": "interfaces.dataset",
    "Split": "interfaces.dataset",
    "Better": "interfaces.metric",
    "Figure": "interfaces.metric",
    "Metric": "interfaces.metric",
    "RealData": "interfaces.metric",
    "ScoredBatch": "interfaces.metric",
    "Scorer": "interfaces.metric",
    "Modality": "interfaces.modality",
    "Workshop": "interfaces.workshop",
    "cache_folder": "interfaces.workshop",
    "content_hash": "interfaces.workshop",
    "hookimpl": "registry.hookspecs",
    "PLUGIN_API": "registry.plugin_api",
    "RunInfo": "registry.run_info",
    "NoiseSchedule": "schedule",
    "did_you_mean": "suggest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
