"""metrics.jsonl: one object for each logged step."""

from __future__ import annotations

import json
import math

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
