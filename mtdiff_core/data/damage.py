"""Damaged samples of a stream: how many there are, and when they are too many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from mtdiff_core.errors import UserError

log = logging.getLogger(__name__)

LISTED = 10  # damaged samples that are named one by one
ADVICE = "`mtdiff data check FOLDER` lists all; pack them again, or raise data.max_bad, and go on with --resume"


class Damage:
    """Damaged samples of a stream: counted, the first ones named in warnings. Can be used by several threads.

    Args:
        samples: How many samples there are.
        max_bad: Share of them that may be damaged.
        found: Numbers of those that were counted, and named, before.
    """

    def __init__(self, samples: int, max_bad: float, found: Iterable[int] = ()) -> None:
        self.samples, self.max_bad = samples, max_bad
        self._found, self._named = set(found), list[str]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def found(self) -> list[int]:
        """Numbers of the samples that are counted, in order."""
        with self._lock:
            return sorted(self._found)

    def add(self, index: int, error: UserError) -> None:
        """Count sample ``index``, unless it was counted before.

        Raises:
            UserError: There are too many.
        """
        name = str(error).split("\n")[0]
        with self._lock:
            if index not in self._found:
                self._found.add(index)
                self._warn(name)
            if len(self) > self.max_bad * self.samples:
                raise UserError(
                    f"{len(self)} of {self.samples} samples are damaged, more than max_bad = {self.max_bad:g}",
                    hint="\n  ".join([*(self._named or [name]), ADVICE]),
                )

    def _warn(self, name: str) -> None:
        if len(self) <= LISTED:
            log.warning("left out: %s", name)
            self._named.append(name)
        elif len(self) & (len(self) - 1) == 0:  # now and then, whatever there is to come
            log.warning("left out: %d samples so far", len(self))

    def mended(self, index: int) -> None:
        """No longer count a sample: it was packed again."""
        with self._lock:
            self._found.discard(index)
