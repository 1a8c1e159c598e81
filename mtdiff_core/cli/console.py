"""What all commands share: consoles, the recipe and device arguments, progress."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from mtdiff_core.allocation import keep_freed_memory
from mtdiff_core.errors import UserError
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.registry.registry import Registry

if TYPE_CHECKING:
    import torch

    from mtdiff_core.registry.run_info import RunInfo

output = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

device_option = click.option(
    "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda, cuda:1, mps, ..."
)
checkpoint_option = click.option(
    "--checkpoint", type=click.IntRange(min=0), metavar="STEP", help="Of which step.  [default: the newest]"
)

ema_option = click.option(
    "--ema", type=click.FloatRange(min=0.005, max=0.28), metavar="SIGMA_REL",
    help="Average the weights over another part of training: its standard deviation, such as 0.15.  "
    "[default: the average that train.ema_decay asks for]",
)  # fmt: skip

compile_option = click.option(
    "--compile/--no-compile", default=None,
    help="Compile the backbone first, which takes a while and pays for many samples.  [default: the recipe's]",
)  # fmt: skip


def load_registry(*, warn: bool = True) -> Registry:
    """All plugins but those that the user disables; a warning on stderr for each that is broken.

    Args:
        warn: Say so; False where the user is going to see it anyway.
    """
    context = click.get_current_context(silent=True)
    registry = Registry(disable=context.find_root().params.get("disable", ()) if context else ())
    for plugin in registry.plugins:
        if warn and plugin.state == "failed":
            errors.print(f"warning: {plugin} is left out: {plugin.reason}", style="yellow", markup=False)
    return registry


def choose_device(text: str) -> torch.device:
    """The device that a user names; where several processes share a machine, each gets one of its GPUs.

    Raises:
        UserError: There is no such device here.
    """
    import torch

    from mtdiff_core.world import local_rank

    if text == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        text = device.type
    try:
        device = torch.device(f"cuda:{local_rank()}" if text == "cuda" else text)
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what names no other is computed, drawn and sent there
    except (RuntimeError, AssertionError, ImportError) as error:  # the last where a back end is a package of its own
        reason = str(error).split("\n")[0]
        raise UserError(f"no device {text!r} here ({reason})", "--device", "auto, cpu, cuda, cuda:0, mps") from error
    if device.type == "meta":
        raise UserError("the meta device computes nothing", "--device", "auto, cpu, cuda, cuda:0, mps")
    return device


def prepare_process() -> None:
    """What comes before any computing: quiet libraries, and memory that is kept from step to step."""
    keep_freed_memory()
    # Meant for torch's and torchdata's own developers
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    warnings.filterwarnings("ignore", category=FutureWarning)


class Display:
    """Progress on stderr: bars on a terminal, elsewhere a plain line now and then. Use as a context manager.

    It is also a lifecycle plugin: registered, it shows training.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=True) if quiet else errors
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(table_column=Column(min_width=8, max_width=24)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
            TimeRemainingColumn(
                compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True, min_width=5)
            ),
            # What there is no room for is cut here, not in the columns before.
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
        )
        self.training: TaskID | None = None
        self.last_line, self.last_losses = 0, ""

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """Show a line."""
        self.console.print(line, markup=False)

    def sampling(self, title: str, steps: int) -> Callable[[int], None]:
        """Begin to show sampling; call the result with the number of steps done."""
        return self.work(f"sampling {title}", steps)

    def work(self, title: str, total: int) -> Callable[[int], None]:
        """Begin to show any work; call the result with how much more of the total is done."""
        if not self.console.is_terminal:
            self.console.print(title, markup=False)
        task = self.bars.add_task(escape(title), total=total, note="")
        return lambda done: self.bars.advance(task, done)

    @hookimpl
    def mtdiff_run_started(self, run: RunInfo, step: int) -> None:
        """Show where the run lies, and a bar."""
        self.console.print(f"run directory: {run.directory}", markup=False)
        self.last_line = step
        if step:
            self.console.print(f"going on after step {step}")
        self.training = self.bars.add_task("training", total=run.total_steps, completed=step, note="")

    @hookimpl
    def mtdiff_step_finished(self, run: RunInfo, step: int, scalars: dict[str, float]) -> None:
        """Losses by modality, and speed."""
        if self.training is None:
            return
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.4f}" for name, value in scalars.items() if name.startswith("loss/")
        )
        self.last_losses = losses
        note = f"{losses}  {scalars['images_per_second']:.0f} images/s"
        self.bars.update(self.training, completed=step, note=escape(note))
        due = step - self.last_line >= run.total_steps / 20 or step == run.total_steps
        if due and not self.console.is_terminal:
            self.last_line = step
            left = self.bars.tasks[self.training].time_remaining
            self.console.print(f"step {step}/{run.total_steps}  {note}  {_left(left)}", markup=False)

    @hookimpl
    def mtdiff_run_went_back(self, step: int) -> None:
        """Set the bar back."""
        self.last_line = step
        if self.training is not None:
            self.bars.update(self.training, completed=step)

    @hookimpl
    def mtdiff_checkpoint_saved(self, step: int) -> None:
        """Say that it is safe to stop."""
        if self.console.is_terminal:
            self.bars.console.print(f"checkpoint of step {step} saved", style="dim")


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds // 60:.0f}:{seconds % 60:02.0f} left"
