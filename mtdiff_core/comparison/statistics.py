"""Means over seeds and paired differences, with intervals that know how few seeds there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from mtdiff_core.intervals import student_t


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of one value for each seed, with its 95% interval (Student's t); no interval for a single seed."""
    if len(values) < 2:
        return {"mean": fmean(values), "interval": None, "seeds": len(values)}
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    return {"mean": mean, "interval": [mean - half, mean + half], "seeds": len(values)}


def paired(values: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Differences seed by seed, and the ratio of the means.

    Args:
        values: One for each seed.
        reference: Of the same seeds, in the same order.
    """
    differences = over_seeds([value - other for value, other in zip(values, reference, strict=True)])
    mean = fmean(reference)
    return {**differences, "ratio": fmean(values) / mean if mean else None}
