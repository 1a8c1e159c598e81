"""Logs runs to TensorBoard: a plugin of lifecycle hooks only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from mtdiff_core import RunInfo

MTDIFF_PLUGIN_API = "1.0"
_writers: dict[Path, SummaryWriter] = {}  # of the runs that are under way, by directory


@hookimpl
def mtdiff_run_started(run: RunInfo, step: int) -> None:
    """Open the log; what an interrupted run logged after the last step that counts is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    _writers[run.directory] = SummaryWriter(run.directory / "tensorboard", purge_step=step + 1)


@hookimpl
def mtdiff_step_finished(run: RunInfo, step: int, scalars: dict[str, float]) -> None:
    """Every scalar; written out at once, or a run that is killed after its next checkpoint would leave a gap."""
    for name, value in scalars.items():
        _writers[run.directory].add_scalar(name, value, step)
    _writers[run.directory].flush()


@hookimpl
def mtdiff_grid_drawn(run: RunInfo, step: int, grid: Path) -> None:
    """The picture of samples."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    with Image.open(grid) as picture:
        _writers[run.directory].add_image("samples", pil_to_tensor(picture.convert("RGB")), step)
    _writers[run.directory].flush()


@hookimpl
def mtdiff_run_went_back(run: RunInfo, step: int) -> None:
    """Hide what was logged of later steps, as after an interruption."""
    mtdiff_run_finished(run)
    mtdiff_run_started(run, step)


@hookimpl
def mtdiff_run_finished(run: RunInfo) -> None:
    """Write everything out and close the log."""
    _writers.pop(run.directory).close()
