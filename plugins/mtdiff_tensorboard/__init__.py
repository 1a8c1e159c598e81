"""Logs runs to TensorBoard: a plugin of lifecycle hooks only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from mtdiff_core import RunInfo
    from mtdiff_tensorboard.events import EventFile

MTDIFF_PLUGIN_API = "1.0"
_files: dict[Path, EventFile] = {}  # of the runs that are under way, by directory


@hookimpl
def mtdiff_run_started(run: RunInfo, step: int) -> None:
    """Begin a file; what an interrupted run logged after the last step that counts is hidden."""
    from mtdiff_tensorboard.events import EventFile

    _files[run.directory] = EventFile(run.directory / "tensorboard", hidden_from=step + 1)


@hookimpl
def mtdiff_step_finished(run: RunInfo, step: int, scalars: dict[str, float]) -> None:
    """Every scalar; written out at once, or a run that is killed after its next checkpoint would leave a gap."""
    _files[run.directory].add_scalars(step, scalars)


@hookimpl
def mtdiff_grid_drawn(run: RunInfo, step: int, grid: Path) -> None:
    """The picture of samples."""
    _files[run.directory].add_picture(step, "samples", grid)


@hookimpl
def mtdiff_run_went_back(run: RunInfo, step: int) -> None:
    """Hide what was logged of later steps, as after an interruption."""
    mtdiff_run_started(run, step)


@hookimpl
def mtdiff_run_finished(run: RunInfo) -> None:
    """The run has its last event."""
    del _files[run.directory]
