"""Every hook that a plugin can implement. Mark implementations with ``mtdiff_core.hookimpl``.

Plugins are found through the entry-point group ``mtdiff``, and say which version of this they were built for
(``mtdiff_core.registry.plugin_api``). Nothing here imports torch, and a plugin's module should not either: declare
components there and import heavy code inside their methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from mtdiff_core.interfaces.aggregator import Aggregator
    from mtdiff_core.interfaces.backbone import Backbone
    from mtdiff_core.interfaces.dataset import DatasetSource
    from mtdiff_core.interfaces.metric import Metric
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.registry.run_info import RunInfo
    from mtdiff_core.schedule import NoiseSchedule

PROJECT = "mtdiff"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def mtdiff_modalities() -> dict[str, type[Modality]]:  # type: ignore[empty-body]
    """Modalities by the name that recipes use."""


@hookspec
def mtdiff_aggregators() -> dict[str, type[Aggregator]]:  # type: ignore[empty-body]
    """Aggregators by the name that recipes use."""


@hookspec
def mtdiff_backbones() -> dict[str, type[Backbone]]:  # type: ignore[empty-body]
    """Backbones by the name that recipes use."""


@hookspec
def mtdiff_schedules() -> dict[str, type[NoiseSchedule]]:  # type: ignore[empty-body]
    """Noise schedules by the name that recipes use."""


@hookspec
def mtdiff_datasets() -> dict[str, type[DatasetSource]]:  # type: ignore[empty-body]
    """Data sets by the name that recipes use."""


@hookspec
def mtdiff_metrics() -> dict[str, type[Metric]]:  # type: ignore[empty-body]
    """Metrics by the name that recipes and ``mtdiff evaluate`` use."""


@hookspec
def mtdiff_run_started(run: RunInfo, step: int) -> None:
    """Training is about to begin, or to go on, after ``step`` finished steps."""


@hookspec
def mtdiff_step_finished(run: RunInfo, step: int, scalars: dict[str, float]) -> None:
    """Step ``step`` (from 1) was logged; ``scalars`` holds losses by modality, learning rate, images/s."""


@hookspec
def mtdiff_grid_drawn(run: RunInfo, step: int, grid: Path) -> None:
    """A picture of samples after ``step`` steps was written to the PNG file ``grid``."""


@hookspec
def mtdiff_checkpoint_saved(run: RunInfo, step: int, checkpoint: Path) -> None:
    """The folder ``checkpoint`` holds a whole checkpoint of step ``step``."""


@hookspec
def mtdiff_run_went_back(run: RunInfo, step: int) -> None:
    """The run goes on after ``step`` steps once more, with other data: later steps that were told of do not count."""


@hookspec
def mtdiff_run_finished(run: RunInfo, step: int) -> None:
    """The run ended after ``step`` steps: finished, with its samples, or interrupted, or failed. The last call."""
