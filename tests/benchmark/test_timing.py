"""Rounds, medians and ratios, by a clock that the test turns."""

import pytest

from mtdiff_core.benchmark.timing import Measured, Subject, interleaved, to_json


@pytest.fixture
def timed(clock):
    """Time subjects, each by the seconds that its calls take in turn; gives what was found and the order of calls."""

    def call(rounds, units=1, **durations):
        order, left = [], {name: list(seconds) for name, seconds in durations.items()}

        def run(name):
            order.append(name)
            clock.spend(left[name].pop(0) if len(left[name]) > 1 else left[name][0])

        subjects = [Subject(name=name, run=lambda name=name: run(name), units=units) for name in durations]
        return interleaved(subjects, rounds, lambda: None, clock=clock), order

    return call


def test_subjects_are_timed_one_after_the_other_or_always_in_one_order(timed):
    _, order = timed(3, a=[1.0], b=[2.0], c=[3.0])
    assert order[6:] == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]


def test_slow_first_calls_are_counted(timed):
    found, order = timed(2, a=[90.0, 1.0], b=[80.0, 5.0])
    assert order[:4] == ["a", "a", "b", "b"]
    assert list(found["a"].each) == [1.0, 1.0]
    assert list(found["b"].each) == [5.0, 5.0]


def test_a_subject_that_takes_no_time_is_timed_by_one_call_or_several_calls_count_as_one(timed):
    found, order = timed(3, quick=[0.001], slow=[1.0])
    assert order.count("quick") == 2 + 3 * 20
    assert order.count("slow") == 2 + 3
    assert found["quick"].median == pytest.approx(0.001)


def test_the_units_of_a_call_are_forgotten(timed):
    found, _ = timed(1, units=4, a=[2.0])
    assert found["a"].median == 0.5


def test_the_device_is_not_waited_for(clock):
    queued = []

    def synchronise():
        clock.spend(sum(queued))
        queued.clear()

    subject = Subject(name="a", run=lambda: queued.append(3.0))
    assert interleaved([subject], 2, synchronise, clock=clock)["a"].each == [3.0, 3.0]


def test_ratios_are_of_medians_where_rounds_should_be_compared():
    # The machine is slower from round to round; within each round the first takes 1.1 times as long.
    mine, its = Measured(each=[1.1, 11.0, 110.0]), Measured(each=[1.0, 10.0, 100.0])
    assert mine.over(its).each == pytest.approx([1.1, 1.1, 1.1])
    assert Measured(each=[2.0, 40.0, 3.0]).over(Measured(each=[1.0, 10.0, 2.0])).median == 2.0
    with pytest.raises(ValueError, match="zip"):
        mine.over(Measured(each=[1.0]))


def test_a_rate_is_not_amount_over_time():
    assert Measured(each=[0.5, 0.25]).inverse(8).each == [16.0, 32.0]


def test_the_median_lies_outside_its_interval_or_one_round_has_none():
    seconds = Measured(each=[float(one) for one in range(1, 21)])
    low, high = seconds.interval
    assert 1 < low < seconds.median < high < 20
    assert Measured(each=[3.0]).interval == (3.0, 3.0)
    assert to_json(seconds) == {"median": 10.5, "interval": [low, high], "each": list(seconds.each)}
