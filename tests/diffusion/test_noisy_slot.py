"""What decoders are told of their own slot of the noisy point."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtdiff_core import FieldSpec, NoisySlot
from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.diffusion.model import LEAST_VARIANCE, MultiModalDiffusion
from mtdiff_core.schedule import CosineSchedule
from tests.diffusion.toys import ANCHOR, OTHER, Analytic, Toy, features, process

COUNT = 4
TIMES = torch.tensor([0.0, 0.3, 0.9, 1.0])


class Kept(nn.Module):
    """A decoder that keeps its slot."""

    def forward(self, features, slot):
        self.slot = slot


def told(aggregator, *, observes=False, known=None, missing=None):
    """The slot that the other modality's decoder gets, the noisy point and its level."""
    spec = FieldSpec(shape=(1, 1, 1), dtype="float64")
    modalities = {ANCHOR: Toy().bind(spec), OTHER: Toy(kind="class").bind(spec)}
    backbone = Analytic(answer=lambda z, log_snr: features(z[:, :1]))
    model = MultiModalDiffusion(modalities, process(CosineSchedule(), aggregator), backbone, observes=observes).double()
    model.velocity, model.decoders[OTHER] = nn.Identity(), Kept()
    z = torch.randn(COUNT, *model.process.layout.space, dtype=torch.float64)
    level = model.process.level(TIMES)
    encodings = dict.fromkeys(known or {}, torch.zeros(COUNT, 1, 1, 1, dtype=torch.float64))
    model(z, level, model.context(z, encodings, known, missing))
    return model.decoders[OTHER].slot, z, level


def test_in_a_shared_space_the_anchor_does_not_count_as_noise():
    slot, z, level = told(LinearAggregator())
    a, s, c = level.alpha, level.sigma, level.coefficient[OTHER]
    assert slot.z.equal(z)
    assert slot.coefficient.equal(c)
    torch.testing.assert_close(slot.variance, s**2 + a**2)
    torch.testing.assert_close(slot.clarity, (a**2 / (a**2 + s**2 + c**2)).flatten(), atol=1e-5, rtol=0)


def test_in_a_block_of_its_own_anything_but_the_noise_hides_it():
    slot, z, level = told(BlocksAggregator())
    assert slot.z.equal(z[:, 1:])
    torch.testing.assert_close(slot.variance, level.sigma[:, 1:].square().clamp(min=LEAST_VARIANCE))
    torch.testing.assert_close(slot.clarity, level.alpha[:, 0].square().flatten(), atol=1e-5, rtol=0)


def test_what_the_network_is_told_is_not_clear_or_what_is_missing_is():
    some = torch.tensor([True, False, True, False])
    slot, _, _ = told(BlocksAggregator(), observes=True, known={ANCHOR: some}, missing={ANCHOR: ~some})
    torch.testing.assert_close(slot.clarity, some.double())


def test_its_own_code_makes_the_other_modalities_clear():
    everyone = torch.ones(COUNT, dtype=torch.bool)
    slot, _, level = told(BlocksAggregator(), observes=True, known={OTHER: everyone})
    torch.testing.assert_close(slot.clarity, level.alpha[:, 0].square().flatten(), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 10**6), coefficient=st.floats(0.01, 3), variance=st.floats(0.01, 3))
def test_the_evidence_is_not_the_log_likelihood_up_to_a_constant(seed, coefficient, variance):
    random = torch.Generator().manual_seed(seed)
    z, one, two = torch.randn(3, 1, 2, 3, 3, generator=random, dtype=torch.float64)
    whole = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    slot = NoisySlot(z=z, coefficient=coefficient * whole, variance=variance * whole, clarity=torch.ones(1))

    def by_evidence(code):
        return (slot.evidence * code - slot.coefficient**2 * code**2 / (2 * slot.variance)).sum()

    def by_density(code):
        return torch.distributions.Normal(slot.coefficient * code, variance**0.5).log_prob(z).sum()

    torch.testing.assert_close(by_evidence(one) - by_evidence(two), by_density(one) - by_density(two))


@pytest.mark.parametrize("aggregator", [LinearAggregator(), BlocksAggregator()])
def test_a_slot_is_not_finite_at_either_end(aggregator):
    slot, _, _ = told(aggregator)
    assert slot.evidence.isfinite().all()
    assert slot.clarity.isfinite().all()
    assert slot.evidence[-1].abs().max() < 1e-12  # pure noise says nothing
