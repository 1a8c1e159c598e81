"""95% intervals of figures: from 1000 resamples, or from a closed form where resampling fails.

A resample draws as many samples as there are, with replacement (Efron & Tibshirani 1993). All draws come from a stream
of their own, so that the same samples give the same interval whatever else was drawn.

Letters for shapes: N samples, R resamples, F entries of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

Interval = tuple[float, float]

RESAMPLES = 1000
TAIL = 0.025  # of either side
NORMAL = 1.959964  # the normal distribution's quantile of 1 - TAIL
STUDENT = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.306, 2.26216, 2.22814)
HANDFUL = 8  # of fewer values, resamples are too often all the same
FEWEST_FOR_MEDIAN = 6  # (1/2)^5 > TAIL: five of five lie on one side of the median too often
FEW = 200  # fewer resamples than these have no quantiles of TAIL that mean anything
AT_ONCE = 4_000_000  # numbers that resamples may hold at a time

# Marks an interval that does not hold its figure's value, wherever both are shown; and what is said of it then.
OUTSIDE = "*"
WHY_OUTSIDE = (
    "of so few samples the figure is too high, or too low, on average; the interval allows for that, the value does not"
)


def is_outside(value: float | None, interval: Sequence[float | None] | None) -> bool:
    """Whether a value lies outside its interval; what is not known, None, lies nowhere."""
    low, high = interval or (None, None)
    return value is not None and ((low is not None and value < low) or (high is not None and value > high))


def student_t(freedom: int) -> float:
    """The quantile of 1 - TAIL of Student's t distribution, right to four digits.

    From a table, or for many degrees of freedom by its expansion (Abramowitz & Stegun 1964, 26.7.5).
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def share_interval(right: Tensor) -> Interval:
    """Of a share, bool ``(N,)``: Wilson's score interval (1927).

    It is no bootstrap, which would have no width where all are right, and hold the truth far too seldom near there.

    Raises:
        ValueError: There is nothing to take a share of.
    """
    count = _at_least(len(right), 1)
    share = float(right.double().mean())
    weight = NORMAL**2 / count
    centre = (share + weight / 2) / (1 + weight)
    half = NORMAL * math.sqrt((share * (1 - share) + weight / 4) / count) / (1 + weight)
    # It holds the share itself, but for rounding.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mean_interval(values: Tensor) -> Interval:
    """Of the mean of ``(N,)``: bootstrap-t (Efron & Tibshirani 1993, section 12.5), which skewed values do not upset.

    Of fewer than 8 values, Student's t.

    Raises:
        ValueError: One value or none says nothing of how much they vary.
    """
    values = values.double()
    count = _at_least(len(values), 2)
    mean, error = values.mean(), values.std() / math.sqrt(count)
    if count < HANDFUL:
        half = student_t(count - 1) * float(error)
        return float(mean) - half, float(mean) + half
    draws = []
    for rows in _resamples(count, count, RESAMPLES):
        drawn = values[rows]  # (R, N)
        errors = drawn.std(dim=1) / math.sqrt(count)
        draws.append(((drawn.mean(dim=1) - mean) / errors)[errors > 1e-9 * error])
    known = torch.cat(draws)
    if not len(known):  # all values are the same
        return float(mean), float(mean)
    low, high = known.quantile(torch.tensor([TAIL, 1 - TAIL]).double()).tolist()
    # Of a handful of values the spread is sometimes next to nothing: no mean lies outside of what it is a mean of.
    least, most = values.min().item(), values.max().item()
    return max(least, float(mean - high * error)), min(most, float(mean - low * error))


def median_interval(values: Tensor) -> Interval:
    """Of the median of ``(N,)``: the values whose ranks bound it, by the binomial distribution of ranks.

    A bootstrap of the median sees a few values only, and needs many samples to be right. Of fewer than
    :data:`FEWEST_FOR_MEDIAN` values all of them lie around the median less often than 95 times in 100.

    Raises:
        ValueError: There are no values.
    """
    count = _at_least(len(values), 1)
    below = torch.arange(count + 1, dtype=torch.float64)  # how many values may lie below the median
    logs = math.lgamma(count + 1) - torch.lgamma(below + 1) - torch.lgamma(count + 1 - below)
    tails = (logs - count * math.log(2)).exp().cumsum(dim=0)
    first = max(0, int((tails <= TAIL).sum()) - 1)
    ordered = values.sort().values
    return float(ordered[first]), float(ordered[count - 1 - first])


def statistic_interval(
    statistic: Callable[..., Tensor], *rows: Tensor, least: float = -math.inf, resamples: int = RESAMPLES
) -> Interval:
    """Of any statistic of samples: the basic (pivotal) bootstrap (Davison & Hinkley 1997, section 5.2).

    What resamples have more than the samples, the samples have more than the truth: an estimate that is too large on
    average, as a Frechet distance is, has an interval that lies lower than it, and need not hold it.

    Args:
        statistic: Of each set a number of resamples at once, ``(R, N, ...)``, to ``(R,)``.
        rows: One or more sets of samples, ``(N, ...)`` each, that are resampled apart from each other.
        least: What the statistic cannot fall short of.
        resamples: How many. Of fewer than 200, a normal distribution stands in for their quantiles.
    """
    estimate = float(statistic(*(one[None] for one in rows)))
    size = max(one.numel() for one in rows)
    chosen = zip(*(_resamples(len(one), size, resamples, place) for place, one in enumerate(rows)), strict=True)
    draws = torch.cat([statistic(*(one[which] for one, which in zip(rows, parts, strict=True))) for parts in chosen])
    return _basic(estimate, draws, least)


def function_of_mean_interval(
    function: Callable[[Tensor], Tensor], rows: Tensor, least: float = -math.inf, resamples: int = RESAMPLES
) -> Interval:
    """As :func:`statistic_interval`, of a function of the mean row, in much less time.

    Args:
        function: Mean rows ``(R, F)``, float64, to ``(R,)``.
        rows: ``(N, F)``.
        least: What the function cannot fall short of.
        resamples: How many.
    """
    rows = rows.double()
    estimate = float(function(rows.mean(dim=0, keepdim=True)))
    draws = []
    one = torch.ones((), dtype=rows.dtype)
    for chosen in _resamples(len(rows), len(rows), resamples):
        times = torch.zeros(chosen.shape, dtype=rows.dtype).scatter_add_(1, chosen, one.expand_as(chosen))
        draws.append(function(times @ rows / len(rows)))
    return _basic(estimate, torch.cat(draws), least)


def _basic(estimate: float, draws: Tensor, least: float) -> Interval:
    """``2 estimate - (quantiles of what resamples give)``."""
    draws = draws.double()
    if len(draws) < FEW:
        centre, half = 2 * estimate - float(draws.mean()), NORMAL * float(draws.std())
        low, high = centre - half, centre + half
    else:
        upper, lower = draws.quantile(torch.tensor([1 - TAIL, TAIL]).double()).tolist()
        low, high = 2 * estimate - upper, 2 * estimate - lower
    return max(least, low), max(least, high)


def _resamples(count: int, size: int, resamples: int, place: int = 0) -> Iterator[Tensor]:
    """Which of ``count`` samples are in each resample, int64 ``(R, N)``, as many at a time as memory allows.

    Args:
        count: Number of samples.
        size: How many numbers one resample holds.
        resamples: How many in all.
        place: Of sets of samples that are resampled apart from each other, which this is.
    """
    random = generator(0, "intervals", place)
    at_once = max(1, AT_ONCE // max(1, size))
    for first in range(0, resamples, at_once):
        yield torch.randint(count, (min(at_once, resamples - first), count), generator=random)


def _at_least(count: int, needed: int) -> int:
    if count < needed:
        raise ValueError(f"an interval needs at least {needed} values, and here are {count}")
    return count
