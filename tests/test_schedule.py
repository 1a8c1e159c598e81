"""Noise schedules against their papers' closed forms."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mtdiff_core.schedule import CosineSchedule, LinearSchedule, RectifiedFlowSchedule

SCHEDULES = [
    CosineSchedule(), CosineSchedule(offset=0.0), CosineSchedule(log_snr_shift=-2.0), LinearSchedule(),
    RectifiedFlowSchedule(),
]  # fmt: skip


def levels(schedule, *times):
    return schedule.alpha_sigma(schedule.log_snr(torch.tensor(times, dtype=torch.float64)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(times=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_noise_grows_with_time_without_exception(schedule, times):
    early, late = sorted(times)
    if late - early < 1e-9:
        return
    log_snr = schedule.log_snr(torch.tensor([early, late], dtype=torch.float64))
    assert log_snr[1] < log_snr[0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_data_is_clean_at_time_0_and_levels_are_finite_at_both_ends(schedule):
    alpha, sigma = levels(schedule, 0.0, 1.0)
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert torch.isfinite(torch.cat([alpha, sigma])).all()
    assert alpha[1] < 0.01
    assert sigma[1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(t=st.floats(1e-4, 1 - 1e-4))
def test_the_time_of_a_log_snr_is_another(schedule, t):
    time = torch.tensor([t], dtype=torch.float64)
    torch.testing.assert_close(schedule.time_at(schedule.log_snr(time)), time, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_log_snr_beyond_the_ends_has_a_time_within(schedule):
    assert schedule.time_at(torch.tensor([1e3, -1e3], dtype=torch.float64)).tolist() == pytest.approx([0, 1])


@given(t=st.floats(1e-4, 1 - 1e-4), shift=st.floats(-3, 3))
def test_a_shifted_schedule_does_not_multiply_the_snr(t, shift):
    # Hoogeboom et al. 2023, equation 6
    (alpha, sigma), (alpha_0, sigma_0) = levels(CosineSchedule(log_snr_shift=shift), t), levels(CosineSchedule(), t)
    ratio = (alpha / sigma).square().item() / (alpha_0 / sigma_0).square().item()
    assert ratio == pytest.approx(math.exp(shift))


@given(offset=st.floats(0, 0.5), shift=st.floats(-3, 3), double=st.booleans())
@example(offset=0.038, shift=0.0, double=True)
@example(offset=0.113, shift=0.0, double=False)
def test_a_rounded_cosine_at_the_end_is_no_number(offset, shift, double):
    schedule = CosineSchedule(offset=offset, log_snr_shift=shift)
    log_snr = schedule.log_snr(torch.tensor([0.999, 1.0], dtype=torch.float64 if double else torch.float32))
    assert not log_snr.isnan().any()
    assert log_snr[1] < -25


@given(t=st.floats(0, 1))
def test_cosine_differs_from_nichol_and_dhariwal_equation_17(t):
    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha, sigma = levels(CosineSchedule(), t)
    assert alpha.item() ** 2 == pytest.approx(f(t) / f(0), abs=1e-12)
    assert sigma.item() ** 2 == pytest.approx(1 - f(t) / f(0), abs=1e-12)


def test_linear_differs_from_the_product_of_ddpm():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = LinearSchedule().alpha_sigma(LinearSchedule().log_snr(times))
    torch.testing.assert_close(alpha**2, alpha_bar, rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma**2, 1 - alpha_bar, rtol=1e-10, atol=0)


@given(t=st.floats(1e-6, 1 - 1e-6))
def test_rectified_flow_is_not_a_straight_line(t):
    alpha, sigma = levels(RectifiedFlowSchedule(), t)
    assert alpha.item() == pytest.approx(1 - t, abs=1e-12)
    assert sigma.item() == pytest.approx(t, abs=1e-12)
