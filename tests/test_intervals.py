"""Intervals: in repetitions of an experiment whose truth is known, they hold it about 95 times in 100."""

import math

import pytest
import torch

from mtdiff_core.intervals import (
    function_of_mean_interval,
    is_outside,
    mean_interval,
    median_interval,
    share_interval,
    statistic_interval,
    student_t,
)

REPETITIONS = 300


def coverage(intervals, truth):
    """Share of intervals that hold the truth."""
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def draws(*shape):
    return torch.randn(REPETITIONS, *shape, generator=torch.Generator().manual_seed(0))


def frechet(first, second):
    """Squared Frechet distance of normal distributions fitted to rows ``(R, N, F)``, by an eigenvalue formula."""
    means = [rows.mean(dim=1) for rows in (first, second)]
    centred = [rows - rows.mean(dim=1, keepdim=True) for rows in (first, second)]
    one, other = (rows.mT @ rows / (rows.shape[1] - 1) for rows in centred)
    roots = torch.linalg.eigvals(one @ other).real.clamp(min=0).sqrt().sum(dim=1)
    traces = sum(c.diagonal(dim1=1, dim2=2).sum(dim=1) for c in (one, other))
    return (means[0] - means[1]).square().sum(dim=1) + traces - 2 * roots


def test_the_mean_of_skewed_values_lies_outside_its_interval_too_often():
    found = coverage([mean_interval(values) for values in draws(50).exp()], math.exp(0.5))
    assert 0.9 <= found <= 0.99


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 12])
def test_the_mean_of_a_few_values_lies_outside_its_interval_too_often(count):
    found = coverage([mean_interval(values) for values in draws(count)], 0)
    assert 0.9 <= found <= 0.99


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (30, 2.042)])
def test_student_s_t_is_not_that_of_the_tables(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("count", [6, 7, 8, 16, 21, 50, 100, 1001])
def test_the_median_lies_outside_its_interval_more_often_than_once_in_twenty(count):
    low, high = median_interval(torch.arange(count))  # ranks
    assert low + high == count - 1
    outside = 2 * sum(math.comb(count, i) for i in range(int(low) + 1)) / 2**count
    wider = 2 * sum(math.comb(count, i) for i in range(int(low) + 2)) / 2**count
    assert outside <= 0.05 < wider, "and no narrower one would do"


def test_a_few_values_have_an_interval_of_their_median_that_leaves_one_out():
    assert median_interval(torch.tensor([3.0, 1.0, 2.0])) == (1, 3)
    assert median_interval(torch.tensor([1.0])) == (1, 1)


def test_a_share_near_one_lies_outside_its_interval_too_often():
    uniform = torch.rand(2000, 100, generator=torch.Generator().manual_seed(0))
    for share in (0.5, 0.9, 0.98, 0.99):
        found = coverage([share_interval(right) for right in uniform < share], share)
        assert 0.9 <= found <= 0.99, share


def test_the_median_of_skewed_values_lies_outside_its_interval_too_often():
    for count in (20, 101):
        assert 0.9 <= coverage([median_interval(values) for values in draws(count).exp()], 1.0) <= 0.99


@pytest.mark.parametrize("resamples", [1000, 100], ids=["quantiles", "few resamples"])
def test_the_frechet_distance_of_two_gaussians_lies_outside_its_interval_too_often(resamples):
    shift, spread = 0.5, torch.tensor([1.0, 1.5, 0.7]).double()
    rows = draws(2, 80, 3).double()
    found = [
        statistic_interval(frechet, one, other * spread + shift, least=0, resamples=resamples) for one, other in rows
    ]
    truth = 3 * shift**2 + float((spread - 1).square().sum())
    assert 0.9 <= coverage(found, truth) <= 0.99


def test_an_interval_takes_a_distance_for_unbiased():
    # Of 60 samples in 12 dimensions the distance is far too large.
    rows = torch.randn(2, 60, 12, generator=torch.Generator().manual_seed(0)).double()
    _, high = statistic_interval(frechet, *rows, least=0)
    assert high < float(frechet(rows[:1], rows[1:]))


def test_the_square_of_a_mean_lies_outside_its_interval_too_often():
    found = [function_of_mean_interval(lambda means: means[:, 0].square(), x[:, None] + 1) for x in draws(60)]
    assert 0.9 <= coverage(found, 1.0) <= 0.99


def test_the_short_way_for_functions_of_the_mean_gives_something_else():
    rows = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).double()
    long = statistic_interval(lambda x: x.mean(dim=1).prod(dim=1), rows)
    assert function_of_mean_interval(lambda means: means.prod(dim=1), rows) == pytest.approx(long)


def test_all_right_leaves_no_doubt():
    low, high = share_interval(torch.ones(100, dtype=torch.bool))
    assert high == 1.0
    assert low == pytest.approx(0.9630, abs=1e-4)  # n / (n + z^2)


def test_an_interval_depends_on_what_was_drawn_before():
    values = torch.arange(20.0)
    first = mean_interval(values)
    torch.rand(3)
    assert mean_interval(values) == first


def test_equal_values_have_no_mean():
    assert mean_interval(torch.full((5,), 0.25)) == (0.25, 0.25)


def test_a_single_value_has_an_interval():
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(torch.ones(1))


def test_what_lies_outside_of_an_interval_is_told_wrongly():
    assert is_outside(3.0, (1.0, 2.0))
    assert is_outside(0.5, [1.0, 2.0])
    assert is_outside(3.0, [None, 2.0])
    for value, interval in ((1.0, (1.0, 2.0)), (2.0, (1.0, 2.0)), (None, (1.0, 2.0)), (3.0, None), (3.0, [1.0, None])):
        assert not is_outside(value, interval)
