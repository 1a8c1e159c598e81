"""metrics.jsonl: one object for each logged step; and what is logged of the steps since the last."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from mtdiff_core.files import explained
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.training.run_directory import RunDirectory, keep_metrics_up_to


class MetricsLog:
    """A lifecycle plugin that appends to the run's own log.

    Args:
        directory: The run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory, self.path = directory, directory.metrics

    @hookimpl
    def mtdiff_step_finished(self, step: int, scalars: dict[str, float]) -> None:
        """Append a line."""
        line = json.dumps({"step": step, **{name: _rounded(value) for name, value in scalars.items()}})
        with explained("cannot write the log", self.path), self.path.open("a") as file:
            file.write(line + "\n")

    @hookimpl
    def mtdiff_run_went_back(self, step: int) -> None:
        """Drop the lines of steps that do not count."""
        keep_metrics_up_to(self.directory, step)


def _rounded(value: float) -> float | None:
    """Six digits; what is not finite, for which JSON has no word, as null."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


class Meter:
    """Means of logged scalars since they were last taken.

    Args:
        batch_size: Samples in a step, by which speed is told.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.sums: dict[str, float] = {}
        self.count = 0
        self.start()

    def start(self) -> None:
        """Begin to tell speed now."""
        self._timed, self._since = 0, time.perf_counter()

    def add(self, scalars: Mapping[str, float]) -> None:
        """Take note of a step's scalars."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in scalars.items()}
        self.count += 1
        self._timed += 1

    def take(self) -> dict[str, float]:
        """The means and ``images_per_second``; then begin again."""
        means = {name: total / self.count for name, total in self.sums.items()}
        means["images_per_second"] = self._timed * self.batch_size / (time.perf_counter() - self._since)
        self.sums, self.count = {}, 0
        self.start()
        return means

    def state_dict(self) -> dict[str, Any]:
        """What was added since, as JSON data: a run that stops between two lines of its log goes on amid the second."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; speed is told from now on."""
        self.sums, self.count = dict(state["sums"]), state["count"]
        self.start()
