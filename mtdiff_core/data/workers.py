"""Processes that load data: when they end, and what is said if one dies."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401 - before what is registered here, which then comes first: it waits for workers
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, TypeVar
from weakref import WeakSet

from mtdiff_core.errors import UserError

B = TypeVar("B")

# Batches that nobody has closed when Python ends: what they hold has to end first.
_UNFINISHED: WeakSet[Generator[Any]] = WeakSet()


def closed_at_exit(batches: Generator[B]) -> Generator[B]:
    """The same batches, which are closed when Python ends, whatever still refers to them: an error's traceback may."""
    _UNFINISHED.add(batches)
    return batches


@atexit.register
def _close_unfinished() -> None:
    for batches in list(_UNFINISHED):
        batches.close()


def begin_worker(_worker: int) -> None:
    """What a worker does first: see to it that it ends when it should, and not before.

    Ctrl-C and SIGTERM often reach all processes of a job: a worker goes on until the main process has saved. A second
    SIGTERM, such as the loader's own to a worker that hangs, ends it. So does the main process's end, also one that it
    had no time to announce: torch looks at the worker's parent, which is not the main process if a forkserver stands
    between them (the default of Python 3.14 on Linux), and outlives it as long as any worker does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    main = parent_process()
    if main is not None:
        main.join()
        os._exit(1)  # nobody is left to hear of it, and a queue that nobody reads may hold up an ordinary exit


@contextmanager
def worker_faults_explained() -> Iterator[None]:
    """Say it in one sentence if a process that loads data dies, which torch may report at any time."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that loads data has died ({str(error).splitlines()[0]})",
            "data.workers",
            "often memory is short; the same command goes on from the last checkpoint with --resume",
        ) from error
