"""What all commands share: consoles, the recipe and device arguments, progress."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mtdiff_core.errors import UserError
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.registry.registry import Registry

if TYPE_CHECKING:
    import torch

    from mtdiff_core.registry.run_info import RunInfo

output = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False)

device_option = click.option(
    "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda, cuda:1, mps, ..."
)


def load_registry() -> Registry:
    """All plugins; a warning on stderr for each that is broken."""
    registry = Registry()
    for plugin in registry.plugins:
        if plugin.error is not None:
            errors.print(f"warning: {plugin} is left out: {plugin.reason}", style="yellow", markup=False)
    return registry


def choose_device(text: str) -> torch.device:
    """The device that a user names.

    Raises:
        UserError: There is no such device here.
    """
    import torch

    if text == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"no device {text!r} here ({reason})", "--device", "auto, cpu, cuda, cuda:0, mps") from error
    if device.type == "meta":
        raise UserError("the meta device computes nothing", "--device", "auto, cpu, cuda, cuda:0, mps")
    return device


def quiet_libraries() -> None:
    """Silence what torch and torchdata say to their own developers."""
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    warnings.filterwarnings("ignore", category=FutureWarning)


def progress_bar() -> Progress:
    """A bar with counts, time and a text of the task's own; it draws nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=errors,
        disable=not errors.is_terminal,
    )


@contextmanager
def sampling_bar() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Progress of sampling: a bar for each direction; on no terminal a line for each."""
    with progress_bar() as bar:

        def begin(title: str, steps: int) -> Callable[[int], None]:
            if not errors.is_terminal:
                errors.print(f"sampling {title}", markup=False)
            task = bar.add_task(f"sampling {title}", total=steps, note="")
            return lambda done: bar.advance(task, done)

        yield begin


class TrainingProgress:
    """A lifecycle plugin that shows training: a bar, or on no terminal a line every now and then."""

    def __init__(self) -> None:
        self.bar = progress_bar()
        self.task: Any = None

    @hookimpl
    def mtdiff_run_started(self, run: RunInfo, step: int) -> None:
        """Show the bar."""
        errors.print(f"run directory: {run.directory}", markup=False)
        if step:
            errors.print(f"going on after step {step}")
        self.bar.start()
        self.task = self.bar.add_task("training", total=run.total_steps, completed=step, note="")

    @hookimpl
    def mtdiff_step_finished(self, run: RunInfo, step: int, scalars: dict[str, float]) -> None:
        """Losses by modality, and speed."""
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.4f}" for name, value in scalars.items() if name.startswith("loss/")
        )
        note = f"{losses}  {scalars['images_per_second']:.0f} images/s"
        self.bar.update(self.task, completed=step, note=note)
        lines = max(1, run.total_steps // 20)
        if not errors.is_terminal and (step % lines < 10 or step == run.total_steps):
            errors.print(
                f"step {step}/{run.total_steps}  {note}  {_left(self.bar.tasks[0].time_remaining)}",
                markup=False,
            )

    @hookimpl
    def mtdiff_run_finished(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds // 60:.0f}:{seconds % 60:02.0f} left"
