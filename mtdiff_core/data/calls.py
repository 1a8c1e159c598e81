"""What threads of torchdata's nodes are at, so that whoever wants no more of it can wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from mtdiff_core.errors import UserError

T = TypeVar("T")

LAST_CALL = 30  # seconds that a call may still take when nobody wants more


class Calls:
    """What threads are at for somebody who may want no more of it, and then waits for them.

    The nodes wait for their threads half a second. One that is in the midst of torch's code when Python ends makes it
    abort; one that waits for a queue does no harm.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._threads: set[int] = set()
        self._over = False

    def __call__(self, function: Callable[[], T]) -> T | UserError:
        """What the function returns, unless it is too late to begin."""
        with self._change:
            if self._over:
                return UserError("no more batches are wanted")
            self._threads.add(threading.get_ident())
        try:
            return function()
        finally:
            with self._change:
                self._threads.discard(threading.get_ident())
                self._change.notify_all()

    def end(self) -> None:
        """Begin no more, and wait for those that other threads are at, but not forever: a network may hang."""
        own = threading.get_ident()  # garbage may be collected in any thread
        with self._change:
            self._over = True
            self._change.wait_for(lambda: self._threads <= {own}, timeout=LAST_CALL)
