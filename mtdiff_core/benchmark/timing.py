"""Timing things against each other: in interleaved rounds, so that what slows the machine slows all of them alike.

Letters for shapes: R rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from mtdiff_core.intervals import Interval, median_interval

# A subject is called again and again until a round has taken about so many seconds, so that the clock does not matter.
LEAST_SECONDS = 0.02
MOST_CALLS = 10_000


@attrs.frozen(kw_only=True)
class Subject:
    """Something that is timed.

    Attributes:
        name: What its times are kept under.
        run: Does it once.
        units: How many of what is counted one call does, such as sampling steps; times are those of one.
    """

    name: str
    run: Callable[[], object]
    units: int = 1


@attrs.frozen(kw_only=True)
class Measured:
    """Seconds, or what was made of them, round by round.

    Attributes:
        each: One number for each round, ``(R,)``.
    """

    each: Sequence[float]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.each)

    @property
    def interval(self) -> Interval:
        """The 95% interval of the median; of fewer than eight rounds, their range."""
        return median_interval(torch.tensor(self.each, dtype=torch.float64))

    def over(self, other: Measured) -> Measured:
        """This in multiples of another, each round against the same round."""
        return Measured(each=[mine / its for mine, its in zip(self.each, other.each, strict=True)])

    def inverse(self, amount: float = 1) -> Measured:
        """``amount`` over each round: seconds to a rate."""
        return Measured(each=[amount / one for one in self.each])


def synchroniser(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all that it was asked to do."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def interleaved(
    subjects: Sequence[Subject],
    rounds: int,
    synchronise: Callable[[], None],
    advance: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measured]:
    """Time each subject once a round, every other round in reverse order.

    Each is called twice first: what is slow once, such as filling caches, is over then, and it is known how many calls
    a round needs.

    Args:
        subjects: Of different names.
        rounds: How many, at least 1.
        synchronise: Waits for the device.
        advance: Called with 1 after each round.
        clock: Seconds.

    Returns:
        Seconds for one unit, by name.
    """

    def seconds(subject: Subject, calls: int) -> float:
        synchronise()
        start = clock()
        for _ in range(calls):
            subject.run()
        synchronise()
        return (clock() - start) / calls

    calls = {}
    for subject in subjects:
        seconds(subject, 1)
        calls[subject.name] = min(MOST_CALLS, math.ceil(LEAST_SECONDS / max(seconds(subject, 1), 1e-9)))
    found: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            found[subject.name].append(seconds(subject, calls[subject.name]) / subject.units)
        advance(1)
    return {name: Measured(each=each) for name, each in found.items()}


def to_json(measured: Measured) -> Mapping[str, object]:
    """The median, its interval and every round."""
    return {"median": measured.median, "interval": list(measured.interval), "each": list(measured.each)}
