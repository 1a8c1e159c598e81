"""Work done, against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mtdiff_core.benchmark.benchmark import flops_of
from mtdiff_core.benchmark.peaks import Sizes, convolution_peak, matmul_peak
from mtdiff_core.benchmark.subjects import BareNetwork, TrainingStep

CPU = torch.device("cpu")
SIZES = Sizes(rows=24, batch=2, channels=8, size=6)


def test_a_multiplication_and_an_addition_are_not_two_operations():
    x, layer = torch.randn(5, 7), nn.Linear(7, 3)
    assert flops_of(lambda: layer(x)) == 2 * 5 * 7 * 3
    maps, conv = torch.randn(2, 4, 6, 6), nn.Conv2d(4, 8, 3, padding=1)
    forward = 2 * (2 * 8 * 6 * 6) * (4 * 9)
    assert flops_of(lambda: conv(maps)) == forward
    # Backward as much again for the weights; none for maps that need no gradient.
    assert flops_of(lambda: conv(maps).sum().backward()) == 2 * forward


def test_attention_counts_for_nothing():
    query, key, value = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    product = 2 * (2 * 3 * 16 * 16 * 8)
    assert flops_of(lambda: functional.scaled_dot_product_attention(query, key, value)) == 2 * product
    # Backward the weights are computed again, and two products each are differentiated by both factors.
    attended = functional.scaled_dot_product_attention(query, key, value)
    assert flops_of(lambda: attended.sum().backward()) == 5 * product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("measure", [matmul_peak, convolution_peak])
def test_a_peak_says_another_number_of_operations_than_it_does(measure, dtype):
    peak = measure(CPU, dtype, SIZES)
    assert peak.flops == flops_of(peak.subject.run)
    assert peak.subject.name.endswith(str(dtype).removeprefix("torch."))
    assert peak.subject.run().dtype == dtype


def test_what_surrounds_the_network_does_any_of_the_heavy_work(open_tiny):
    trainer = open_tiny().trainer()
    batch = next(iter(trainer.loader))
    bare = flops_of(BareNetwork(trainer, batch).training_step)
    full = flops_of(TrainingStep(trainer, batch))
    assert bare == pytest.approx(full, rel=0.01)  # but for the filters of what z_t itself says
    assert bare <= full
