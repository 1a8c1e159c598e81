"""Saving that training does not wait for: what is saved is copied, and written while the next steps are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.training.checkpoint import SHARDS, Part, begin_checkpoint, save_checkpoint, seal_checkpoint
from mtdiff_core.training.parallel import whole_one
from mtdiff_core.training.shards import begin_to_write, wait_for

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from mtdiff_core.world import World

Tensors = Mapping[Part, Mapping[str, Tensor]]
Write = Callable[[], object]


def in_host_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies in host memory, which further training does not change; of parts, of the whole.

    Where processes have parts, all have to ask for the same tensors.
    """
    return {
        name: whole_one(tensors[name]).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name in sorted(tensors)  # the order of a file once read differs from process to process
    }


@attrs.frozen
class CheckpointWriters:
    """What each process has to do to save a checkpoint, once all is copied that training goes on to change.

    Attributes:
        world: The processes.
        line: Between them, if each has but a part of the tensors.
    """

    world: World
    line: ProcessGroup | None = None

    def whole(
        self, folder: Path, tensors: Tensors, state: Mapping[str, Any], keep: int, stays: Callable[[int], bool]
    ) -> list[Write]:
        """The main process writes everything; as :func:`save_checkpoint`, all processes have to ask."""
        if self.world.is_main:
            copies = {part: in_host_memory(named) for part, named in tensors.items()}
            return [partial(save_checkpoint, folder, copies, state, keep=keep, stays=stays)]
        if self.line:
            for named in tensors.values():
                for name in sorted(named):  # one at a time: together they may have no room
                    whole_one(named[name])
        return []

    def parts(
        self, folder: Path, tensors: Tensors, state: Mapping[str, Any], keep: int, stays: Callable[[int], bool]
    ) -> list[Write]:
        """Every process writes its parts, if it has but parts, and the main one makes a checkpoint of them."""
        if not self.line:
            return self.whole(folder, tensors, state, keep, stays)
        step, sharded = state["step"], {part: named for part, named in tensors.items() if part != "fitted"}
        aside = Path(self.world.from_main(lambda: str(begin_checkpoint(folder, step))))
        flat = {f"{part}/{name}": x for part, named in sharded.items() for name, x in named.items()}
        written = begin_to_write(aside / SHARDS, flat, self.line)
        if not self.world.is_main:
            return [partial(wait_for, written, step, folder)]
        state = {**state, "sharded": sorted(part for part, named in sharded.items() if named)}
        return [partial(seal_checkpoint, aside, written, tensors["fitted"], state, keep=keep, stays=stays)]


class BackgroundSaver:
    """Writes in a thread of its own, one save at a time.

    All methods belong to the thread that trains. There, too, plugins are told of a save, and its errors are raised.
    """

    def __init__(self) -> None:
        self._under_way: tuple[Thread, Future[None]] | None = None
        self._tell: Callable[[], object] = _tell_nobody

    def begin(self, *writes: Callable[[], object], tell: Callable[[], object] | None = None) -> None:
        """Begin a save, after the one under way.

        Args:
            writes: Write it, in this order. What they read must not change any more.
            tell: Called by a later :meth:`poll` or :meth:`finish`, once everything is written.

        Raises:
            UserError: The save before failed; this one is not begun.
        """
        self.finish()
        outcome: Future[None] = Future()
        # A daemon: whoever presses Ctrl-C once more while a save is waited for need not wait for a disk that hangs
        thread = Thread(target=_fulfil, args=(outcome, writes), name="saving", daemon=True)
        self._under_way, self._tell = (thread, outcome), tell or _tell_nobody
        thread.start()

    def poll(self) -> None:
        """See to a save that has ended meanwhile; do not wait for one that has not.

        Raises:
            UserError: It failed.
        """
        if self._under_way is not None and not self._under_way[0].is_alive():
            self.finish()

    def finish(self) -> None:
        """Wait for the save under way, if there is one.

        Raises:
            UserError: It failed.
        """
        if self._under_way is None:
            return
        self._under_way[0].join()  # an interruption of the wait leaves the save under way
        outcome, tell = self._under_way[1], self._tell
        # No reference cycles: who trains has workers to close, and is to be gone as soon as it is dropped
        self._under_way, self._tell = None, _tell_nobody
        try:
            outcome.result()
        finally:
            del outcome
        tell()


def _tell_nobody() -> None:
    """What is done where nobody is to be told."""


def _fulfil(future: Future[None], writes: Sequence[Callable[[], object]]) -> None:
    try:
        for write in writes:
            write()
    except BaseException as error:  # whatever it is, it belongs to the thread that trains
        future.set_exception(error)
    else:
        future.set_result(None)
