"""Means over seeds and paired differences."""

import math

import pytest
import torch

from mtdiff_core.comparison.comparison import interpolated
from mtdiff_core.comparison.statistics import over_seeds, paired


@pytest.mark.parametrize("seeds", [2, 3, 5, 12, 30])
def test_the_interval_over_seeds_holds_the_mean_more_or_less_often_than_in_95_of_100_cases(seeds):
    draws = torch.randn(4000, seeds, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 7
    intervals = [over_seeds(row)["interval"] for row in draws.tolist()]
    held = sum(low <= 7 <= high for low, high in intervals) / len(intervals)
    assert held == pytest.approx(0.95, abs=0.015)


def test_one_seed_says_how_much_seeds_differ():
    assert over_seeds([3.0]) == {"mean": 3.0, "interval": None, "seeds": 1}


def test_what_seeds_share_widens_the_interval_of_a_difference():
    reference, shift = [1.0, 5.0, 9.0], 0.5
    found = paired([value + shift for value in reference], reference)
    assert found["mean"] == pytest.approx(shift)
    assert found["interval"] == pytest.approx([shift, shift])
    assert found["ratio"] == pytest.approx(5.5 / 5)
    assert paired([1.0], [0.0])["ratio"] is None


def test_a_curve_is_read_elsewhere_than_on_the_line_through_its_points():
    xs, ys = [1.0, 2.0, 4.0], [10.0, 20.0, 0.0]
    assert interpolated(1.0, xs, ys) == 10
    assert interpolated(1.5, xs, ys) == 15
    assert interpolated(3.0, xs, ys) == 10
    assert interpolated(4.0, xs, ys) == 0
    assert interpolated(0.9, xs, ys) is None
    assert interpolated(4.1, xs, ys) is None
    assert interpolated(math.nextafter(4.0, 5), xs, ys) == pytest.approx(0), "rounding alone is no end of training"
