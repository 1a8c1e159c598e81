"""Logs runs to TensorBoard: a plugin of lifecycle hooks only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from mtdiff_core.registry.run_info import RunInfo

_writers: dict[str, SummaryWriter] = {}


def _writer(run: RunInfo, purge_step: int | None = None) -> SummaryWriter:
    """The run's writer. Steps from ``purge_step`` on, of an interrupted run, are hidden."""
    from torch.utils.tensorboard import SummaryWriter

    key = str(run.directory)
    if key not in _writers:
        _writers[key] = SummaryWriter(run.directory / "tensorboard", purge_step=purge_step)
    return _writers[key]


@hookimpl
def mtdiff_run_started(run: RunInfo, step: int) -> None:
    """Open the log, after the last step that counts."""
    _writer(run, purge_step=step + 1 if step else None)


@hookimpl
def mtdiff_step_finished(run: RunInfo, step: int, scalars: dict[str, float]) -> None:
    """Every scalar."""
    for name, value in scalars.items():
        _writer(run).add_scalar(name, value, step)


@hookimpl
def mtdiff_grid_drawn(run: RunInfo, step: int, grid: Path) -> None:
    """The picture of samples."""
    from torchvision.io import ImageReadMode, decode_image

    _writer(run).add_image("samples", decode_image(str(grid), mode=ImageReadMode.RGB), step)
    _writer(run).flush()


@hookimpl
def mtdiff_run_finished(run: RunInfo) -> None:
    """Write everything out."""
    _writer(run).flush()
