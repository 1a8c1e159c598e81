"""The moving average of the weights: its closed form, and that it forgets where it began."""

import pytest
import torch

from mtdiff_core.training.ema import ExponentialMovingAverage


class Weights(torch.nn.Module):
    """One weight and one buffer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1e6], dtype=torch.float64))
        self.register_buffer("code", torch.zeros(1))

    def set(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
        return self


def averages(values, decay):
    """The average after each of the weights' values."""
    weights = Weights()
    ema = ExponentialMovingAverage(weights, decay)
    result = []
    for value in values:
        ema.update_parameters(weights.set(value))
        result.append(ema.module.weight.item())
    return result


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_warm_up_follows_its_closed_form(decay):
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0]
    expected = [values[0]]  # the first update copies
    for n, value in enumerate(values[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        expected.append(d * expected[-1] + (1 - d) * value)
    assert averages(values, decay) == pytest.approx(expected, rel=1e-12)


def test_after_the_warm_up_the_decay_is_the_one_asked_for():
    # With decay 0.9 the warm-up ends at n = 80: (1 + 80) / (10 + 80) = 0.9.
    result = averages([0.0] * 100 + [1.0] * 10, decay=0.9)
    assert result[-1] == pytest.approx(1 - 0.9**10, rel=1e-9)


def test_nothing_of_the_initial_weights_is_left_after_a_few_updates():
    assert averages([0.0] * 50, decay=0.9999)[-1] == 0, "the initial 1e6 is still in the average"


def test_the_average_of_50_updates_follows_the_last_weights_and_not_the_first():
    # Weights that grow from 0 to 1: an average without warm-up would lie near 0.
    values = [i / 49 for i in range(50)]
    assert averages(values, decay=0.9999)[-1] > 0.85


def test_the_average_leaves_the_weights_alone_and_shares_no_memory_with_them():
    weights = Weights().set(2.0)
    ema = ExponentialMovingAverage(weights, 0.9)
    ema.update_parameters(weights)
    weights.set(5.0)
    assert ema.module.weight.item() == 2
    assert weights.weight.item() == 5


def test_buffers_are_copied_rather_than_averaged():
    weights = Weights()
    ema = ExponentialMovingAverage(weights, 0.9)
    for value in (1.0, 2.0, 3.0):
        weights.code.fill_(value)
        ema.update_parameters(weights)
    assert ema.module.code.item() == 3


def test_the_update_number_survives_being_restored():
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    weights = Weights()
    first = ExponentialMovingAverage(weights, 0.999)
    for value in values[:3]:
        first.update_parameters(weights.set(value))
    second = ExponentialMovingAverage(Weights(), 0.999)
    second.module.load_state_dict(first.module.state_dict())
    second.n_averaged.fill_(int(first.n_averaged))
    for value in values[3:]:
        second.update_parameters(weights.set(value))
    assert second.module.weight.item() == averages(values, 0.999)[-1]
