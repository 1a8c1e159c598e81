"""The forward process of method section 2, for random schedules, curves, blocks and shifts, in float64."""

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtdiff_core import Aggregator, component
from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.curves import CURVES
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.diffusion.forward import ForwardProcess, relative_levels
from mtdiff_core.diffusion.sampling import ddim_step
from mtdiff_core.schedule import CosineSchedule, LinearSchedule, NoiseSchedule, RectifiedFlowSchedule

NAMES = ("x", "y", "w")
SHAPE = (2, 3, 4)


@component
class AnyLogSnr(NoiseSchedule):
    """``l(t) = high - slope t - bend t^3``: any decreasing cubic."""

    high: float = attrs.field()
    slope: float = attrs.field()
    bend: float = attrs.field()

    def log_snr(self, t):
        return self.high - self.slope * t - self.bend * t**3


@component
class AnyCurve:
    """``c = k a^p s^q``."""

    k: float = attrs.field()
    p: float = attrs.field()
    q: float = attrs.field()


@component
class AnyAggregator(LinearAggregator):
    """Coefficients that no curve of ours has, negative ones among them."""

    ModalityOptions = AnyCurve

    def coefficient(self, options, alpha, sigma):
        return options.k * alpha**options.p * sigma**options.q

    def carries(self, options):
        return options.k != 0


assert issubclass(AnyAggregator, Aggregator)
number = st.floats(-3, 3)
schedules = st.one_of(
    st.builds(CosineSchedule, offset=st.floats(0, 0.1)),
    st.builds(LinearSchedule, beta_start=st.floats(1e-5, 1e-3), beta_end=st.floats(2e-3, 0.05)),
    st.just(RectifiedFlowSchedule()),
    st.builds(AnyLogSnr, high=st.floats(2, 12), slope=st.floats(2, 15), bend=st.floats(0, 8)),
)
any_curve = st.builds(AnyCurve, k=number, p=st.floats(0.1, 3), q=st.floats(0, 3))
named_curve = {"curve": st.sampled_from(list(CURVES)), "strength": st.floats(0, 3)}
aggregations = st.one_of(
    st.tuples(st.just(AnyAggregator()), any_curve, any_curve),
    st.tuples(st.just(LinearAggregator()), *[st.builds(LinearAggregator.ModalityOptions, **named_curve)] * 2),
    st.tuples(
        st.just(BlocksAggregator()),
        *[st.builds(BlocksAggregator.ModalityOptions, **named_curve, log_snr_shift=number)] * 2,
    ),
)


@st.composite
def cases(draw):
    """A process, encodings, and levels at times r < s < t."""
    aggregator, for_y, for_w = draw(aggregations)
    process = ForwardProcess(
        schedule=draw(schedules),
        aggregator=aggregator,
        layout=aggregator.layout("x", SHAPE, {"y": 1, "w": 2}),
        anchor="x",
        options={"y": for_y, "w": for_w},
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    batch = 3
    encodings = {
        name: torch.randn(batch, *process.layout.slot_shape(name), generator=generator, dtype=torch.float64)
        for name in NAMES
    }
    # Times apart from each other and from the ends, so that rounding stays far below the tolerance.
    first, second, third = sorted(draw(st.lists(st.integers(2, 98), min_size=3, max_size=3, unique=True)))
    levels = [process.level(torch.full((batch,), i / 100, dtype=torch.float64)) for i in (first, second, third)]
    z = torch.randn(batch, *process.layout.space, generator=generator, dtype=torch.float64)
    return process, encodings, levels, z


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@given(cases())
def test_the_mean_is_not_the_sum_of_coefficients_times_encodings(case):
    process, encodings, (level, _, _), _ = case
    expected = torch.zeros(3, *process.layout.space, dtype=torch.float64)
    for name in NAMES:
        start, stop = process.layout.slots[name]
        for channel in range(start, stop):
            c = level.coefficient[name][:, channel - start, :, :]
            expected[:, channel] += c * encodings[name][:, channel - start]
    close(process.mean(encodings, level), expected)


@given(cases())
def test_a_transition_leads_elsewhere_than_to_the_marginal(case):
    process, encodings, (early, late, _), z = case
    start, end = process.marginal(encodings, early), process.marginal(encodings, late)
    alpha, sigma = relative_levels(early, late)
    step = process.transition(z, encodings, early, late)
    # z_s = m_s + s_s n, integrated over n: a linear map of a Gaussian
    close(process.transition(start.mean, encodings, early, late).mean, end.mean)
    close(step.mean - end.mean, alpha * (z - start.mean))
    close((alpha * start.std) ** 2 + step.std**2, end.std**2)
    close(step.std, sigma)


@given(cases())
def test_two_transitions_differ_from_the_one_that_spans_them(case):
    process, encodings, (r, s, t), z = case
    first = process.transition(z, encodings, r, s)
    second = process.transition(first.mean, encodings, s, t)
    whole = process.transition(z, encodings, r, t)
    alpha, _ = relative_levels(s, t)
    close(second.mean, whole.mean)
    close((alpha * first.std) ** 2 + second.std**2, whole.std**2)


@given(cases())
def test_the_posterior_contradicts_bayes_rule(case):
    process, encodings, (early, late, _), z_t = case
    prior = process.marginal(encodings, early)
    alpha, sigma = relative_levels(early, late)
    # likelihood of z_s: z_t = alpha (z_s - m_s) + m_t + sigma n
    precision = 1 / prior.std**2 + alpha**2 / sigma**2
    observed = (z_t - process.mean(encodings, late)) / alpha + prior.mean
    mean = (prior.mean / prior.std**2 + observed * alpha**2 / sigma**2) / precision
    posterior = process.posterior(z_t, encodings, early, late)
    close(posterior.mean, mean)
    close(posterior.std, precision**-0.5)


@given(cases())
def test_coefficients_do_not_come_back_from_the_papers_weights(case):
    process, encodings, (early, late, _), z = case
    weights = process.paper_weights(early, late)
    alpha, _ = relative_levels(early, late)
    for name in NAMES:
        own = process.layout.channels(name)
        close(alpha[:, own] * (early.coefficient[name] + weights[name]), late.coefficient[name])
    # and the paper's own transition, sqrt(alpha_t) (z_{t-1} + sum_i w_t^i e_i), is ours
    pushed = z.clone()
    for name in NAMES:
        pushed[:, process.layout.channels(name)] += weights[name] * encodings[name]
    close(alpha * pushed, process.transition(z, encodings, early, late).mean)


@given(cases())
def test_ddim_with_eta_1_is_not_the_ancestral_step(case):
    process, encodings, (early, late, _), z = case
    torch.manual_seed(0)
    step = ddim_step(process, z, encodings, early, late, eta=1)
    torch.manual_seed(0)
    close(step, process.posterior(z, encodings, early, late).sample(torch.randn_like(z)))


@given(cases())
def test_the_anchor_is_scaled_by_something_other_than_the_signal_level(case):
    process, _, (level, _, _), _ = case
    close(level.coefficient["x"], level.alpha[:, process.layout.channels("x")])


@given(cases(), st.floats(-3, 3))
def test_a_shift_of_the_log_snr_reaches_the_wrong_channels(case, shift):
    _, _, (level, _, _), _ = case
    aggregator = BlocksAggregator()
    options = {"y": aggregator.ModalityOptions(log_snr_shift=shift), "w": aggregator.ModalityOptions()}
    layout = aggregator.layout("x", SHAPE, {"y": 1, "w": 2})
    process = ForwardProcess(
        schedule=CosineSchedule(), aggregator=aggregator, layout=layout, anchor="x", options=options
    )
    level = process.level(torch.full((1,), 0.4, dtype=torch.float64))
    log_snr = (2 * (level.alpha / level.sigma).log()).flatten()
    expected = level.log_snr + torch.tensor([0, 0, shift, 0, 0], dtype=torch.float64)
    close(log_snr, expected)


@pytest.mark.parametrize(("name", "power"), [("fading", 2), ("early", 4)])
def test_a_hint_peaks_elsewhere_than_at_its_strength_or_fades_with_another_power_of_the_noise(name, power):
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    schedule = CosineSchedule()
    alpha, sigma = schedule.alpha_sigma(schedule.log_snr(t))
    curve = LinearAggregator.ModalityOptions(curve=name, strength=0.7).coefficient(alpha, sigma)
    assert math.isclose(curve.max().item(), 0.7, rel_tol=1e-6)
    shape = alpha * sigma**power
    torch.testing.assert_close(curve, 0.7 * shape / shape.max(), rtol=1e-6, atol=1e-12)
    assert curve[0] == 0
    assert curve[-1].abs() < 1e-12


def test_an_absent_modality_still_moves_the_mean():
    aggregator = LinearAggregator()
    layout = aggregator.layout("x", SHAPE, {"y": 1})
    process = ForwardProcess(
        schedule=CosineSchedule(),
        aggregator=aggregator,
        layout=layout,
        anchor="x",
        options={"y": aggregator.ModalityOptions()},
    )
    level = process.level(torch.tensor([0.5]))
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    close(process.mean({"x": x}, level), level.alpha * x)
