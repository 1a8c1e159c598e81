"""Samplers against known joint distributions, with the exact denoiser plugged in as the network."""

import math
from itertools import pairwise

import pytest
import torch

from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.diffusion import sampling
from mtdiff_core.diffusion.denoiser import Denoiser
from mtdiff_core.diffusion.sampling import SAMPLERS, extrapolated, time_grid
from mtdiff_core.recipe import sections
from mtdiff_core.schedule import CosineSchedule, LinearSchedule, RectifiedFlowSchedule
from tests.diffusion.toys import ANCHOR, OTHER, analytic_model, features, process

CORRELATION = 0.8
SHARE_OF_ONE, MEANS, SPREAD = 0.3, (-0.8, 0.9), 0.4


def gaussian_pair(schedule):
    """Two correlated scalars of unit variance, each in a block of its own, and the exact ``p(y | z)`` and ``v``."""
    forward = process(schedule, BlocksAggregator())
    prior = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=torch.float64)

    def answer(z, log_snr):
        alpha, sigma = (level[0, 0, 0, 0] if level.dim() == 4 else level[0] for level in schedule.alpha_sigma(log_snr))
        gain = alpha * prior @ torch.linalg.inv(alpha**2 * prior + sigma**2 * torch.eye(2, dtype=torch.float64))
        mean = torch.einsum("ij,bjhw->bihw", gain, z)
        covariance = prior - alpha * gain @ prior
        x_hat, y_hat = mean[:, :1], mean[:, 1:]
        velocity = (alpha * z[:, :1] - (alpha**2 + sigma**2) * x_hat) / sigma
        return features(velocity, mean=y_hat, std=covariance[1, 1].clamp(min=1e-12).sqrt())

    return analytic_model(forward, answer, "pixel")


def labelled_scalar(schedule):
    """A sign y and a scalar x | y, in one shared pixel, and the exact ``p(y | z)`` and ``v``."""
    aggregator = LinearAggregator()
    forward = process(schedule, aggregator)
    share = torch.tensor([1 - SHARE_OF_ONE, SHARE_OF_ONE], dtype=torch.float64)
    mu = torch.tensor(MEANS, dtype=torch.float64)
    code = torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def answer(z, log_snr):
        alpha, sigma = schedule.alpha_sigma(log_snr[:1])
        c = aggregator.coefficient(forward.options[OTHER], alpha, sigma)
        point = z[:, 0, 0, :1]  # (B, 1)
        centre, variance = alpha * mu + c * code, alpha**2 * SPREAD**2 + sigma**2  # (2,)
        posterior = (share.log() - (point - centre) ** 2 / (2 * variance)).softmax(dim=1)  # (B, 2)
        x_given_y = mu + alpha * SPREAD**2 / variance * (point - centre)
        x_hat = (posterior * x_given_y).sum(dim=1)[:, None, None, None]
        y_hat = (posterior * code).sum(dim=1)[:, None, None, None]
        velocity = (alpha * (z - c * y_hat) - (alpha**2 + sigma**2) * x_hat) / sigma
        return features(velocity, probability=posterior[:, 1])

    return analytic_model(forward, answer, "class")


def draw(model, sampler, count, steps, known=None, seed=0):
    torch.manual_seed(seed)
    noise = torch.randn(count, *model.process.layout.space, dtype=torch.float64)
    times = time_grid(model.process, steps, 1000)
    return SAMPLERS[sampler](Denoiser(model, known or {}, noise), times, lambda _: None)


@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedFlowSchedule()], ids=["cosine", "flow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_joint_samples_of_two_blocks_have_another_covariance_than_the_data(sampler, schedule):
    n = 8000
    values = draw(gaussian_pair(schedule), sampler, n, steps=160).values
    joint = torch.stack([values[ANCHOR].flatten(), values[OTHER].flatten()])
    expected = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=torch.float64)
    # 4 standard errors of a variance, plus what 160 steps leave
    torch.testing.assert_close(torch.cov(joint), expected, rtol=0, atol=4 * math.sqrt(2 / n) + 0.02)
    assert joint.mean(dim=1).abs().max() < 4 / math.sqrt(n)


def test_a_stochastic_solver_of_second_order_is_no_nearer_to_the_data_in_few_steps_than_of_first():
    n, errors = 40_000, {}
    expected = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=torch.float64)
    for sampler in ("ancestral", "dpmpp_2m_sde"):
        values = draw(gaussian_pair(CosineSchedule()), sampler, n, steps=24).values
        joint = torch.stack([values[ANCHOR].flatten(), values[OTHER].flatten()])
        errors[sampler] = (torch.cov(joint) - expected).abs().max().item()
    assert errors["dpmpp_2m_sde"] < errors["ancestral"] / 3, errors


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_joint_samples_in_a_shared_space_miss_the_joint_distribution(sampler):
    n = 6000
    values = draw(labelled_scalar(CosineSchedule()), sampler, n, steps=250).values
    x, y = values[ANCHOR].flatten(), values[OTHER]
    assert y.double().mean().item() == pytest.approx(SHARE_OF_ONE, abs=0.03)
    # The final y is the mode of p(y | x), so compare x given y with the same reading of true samples.
    true_y = torch.rand(n, dtype=torch.float64) < SHARE_OF_ONE
    true_x = torch.where(true_y, MEANS[1], MEANS[0]) + SPREAD * torch.randn(n, dtype=torch.float64)
    assert x.mean().item() == pytest.approx(true_x.mean().item(), abs=0.05)
    assert x.std().item() == pytest.approx(true_x.std().item(), abs=0.05)
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    torch.testing.assert_close(x.quantile(quantiles), true_x.quantile(quantiles), rtol=0, atol=0.12)
    assert ((x > 0.05) == (y == 1)).double().mean() > 0.97


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_unknown_class_is_not_the_most_probable_one_given_the_scalar(sampler):
    x = torch.tensor([-1.2, -0.8, 0.6, 1.3], dtype=torch.float64).repeat(50)
    known = {ANCHOR: x[:, None, None, None]}
    sampled = draw(labelled_scalar(CosineSchedule()), sampler, 200, steps=100, known=known)
    evidence = [
        torch.log(torch.tensor(share)) - (x - mu) ** 2 / (2 * SPREAD**2)
        for share, mu in zip((1 - SHARE_OF_ONE, SHARE_OF_ONE), MEANS, strict=True)
    ]
    assert (sampled.values[OTHER] == (evidence[1] > evidence[0])).double().mean() > 0.98


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("known", [ANCHOR, OTHER])
def test_what_is_known_comes_out_changed(sampler, known):
    model = labelled_scalar(CosineSchedule())
    value = torch.randn(6, 1, 1, 1, dtype=torch.float64) if known == ANCHOR else torch.tensor([0, 1, 1, 0, 1, 0])
    sampled = draw(model, sampler, 6, steps=5, known={known: value})
    assert torch.equal(sampled.values[known], value)
    assert known not in sampled.distributions


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_known_class_does_not_move_the_scalar_towards_its_mean(sampler):
    model = labelled_scalar(CosineSchedule())
    given = {label: draw(model, sampler, 2000, 100, {OTHER: torch.full((2000,), label)}) for label in (0, 1)}
    means = [given[label].values[ANCHOR].mean().item() for label in (0, 1)]
    # Replacement is approximate, since the network is not told what is known: the means move, not all the way.
    assert means[1] - means[0] > 0.3 * (MEANS[1] - MEANS[0])


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_samplers_count_their_steps_wrongly(steps):
    seen = []
    model = labelled_scalar(CosineSchedule())
    noise = torch.randn(2, 1, 1, 1, dtype=torch.float64)
    for sampler in SAMPLERS.values():
        sampler(Denoiser(model, {}, noise), time_grid(model.process, steps, 1000), seen.append)
    assert seen == [*range(1, steps + 1)] * len(SAMPLERS)


def test_a_deterministic_sampler_draws_or_ancestral_does_not():
    model = labelled_scalar(CosineSchedule())
    noise = torch.randn(64, 1, 1, 1, dtype=torch.float64)
    times = time_grid(model.process, 20, 1000)
    runs = {
        name: [sampler(Denoiser(model, {}, noise), times, lambda _: None).values[ANCHOR] for _ in range(2)]
        for name, sampler in SAMPLERS.items()
    }
    assert torch.equal(*runs["ddim"])
    assert torch.equal(*runs["dpmpp_2m"])
    assert not torch.allclose(*runs["ancestral"])
    assert not torch.allclose(*runs["dpmpp_2m_sde"])


def test_recipes_know_other_samplers_than_there_are():
    assert set(sections.SAMPLERS) == set(SAMPLERS)


def exact_flow(schedule, z, times):
    """Where the probability flow of :func:`gaussian_pair` takes ``z``: ``cov_s^(1/2) cov_t^(-1/2) z``."""
    prior = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(prior)
    spread = []
    for t in times:
        alpha, sigma = schedule.alpha_sigma(schedule.log_snr(t))
        spread.append((alpha**2 * values + sigma**2).sqrt())
    gain = vectors @ torch.diag(spread[1] / spread[0]) @ vectors.T
    return torch.einsum("ij,bjhw->bihw", gain, z)


@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedFlowSchedule()], ids=["cosine", "flow"])
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 0.8), ("dpmpp_2m", 1.8)])
def test_the_error_falls_slower_than_its_order_against_the_exact_flow(sampler, order, schedule):
    model = gaussian_pair(schedule)
    torch.manual_seed(0)
    noise = torch.randn(64, 2, 1, 1, dtype=torch.float64)
    high, low = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)
    errors, ends = [], []
    model.values = lambda means, estimate: {ANCHOR: ends[-1]}
    for steps in (40, 80, 160, 320):
        times = torch.linspace(high.item(), low.item(), steps + 1, dtype=torch.float64)
        denoiser = Denoiser(model, {}, noise)
        levels = denoiser.levels(times)
        z = last_point(SAMPLERS[sampler], denoiser, times, ends)
        start = levels[0].sigma * noise
        errors.append((z - exact_flow(schedule, start, (high, low))).abs().max().item())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] >= order, (errors, slopes)
    assert slopes[-1] <= order + 0.5, "the problem is too easy to tell orders apart"


def last_point(sampler, denoiser, times, ends):
    """The sampler's own last z, which its result, a reading of the last estimate, does not show."""
    step = sampling.ddim_step

    def spy(*arguments, **keywords):
        ends.append(step(*arguments, **keywords))
        return ends[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "ddim_step", spy)
        sampler(denoiser, times, lambda _: None)
    return ends[-1]


SCHEDULES = pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule(), RectifiedFlowSchedule()], ids=repr)


@SCHEDULES
@pytest.mark.parametrize(
    ("steps", "diffusion_steps", "last"), [(1, 1000, 1), (50, 1000, 1e-3), (50, 20, 0.02), (5, 1, 0.2)]
)
def test_the_network_is_not_asked_so_often_or_not_at_the_last_time_of_training(schedule, steps, diffusion_steps, last):
    earlier = BlocksAggregator.ModalityOptions(log_snr_shift=2.0)
    forward = process(schedule, BlocksAggregator(), options={OTHER: earlier})
    times = time_grid(forward, steps, diffusion_steps)
    assert len(times) == steps + 1
    assert times[-1] == 0
    assert times[-2] == pytest.approx(last, rel=0.01)
    assert (times.diff() < 0).all()
    # where sampling starts there is noise alone, in every channel
    start = forward.level(times[:1])
    assert (start.alpha / start.sigma).max() < 0.02


@pytest.mark.parametrize(("times", "ratio"), [((0.9, 0.8, 0.7), None), ((0.9, 0.8, 0), 0)])
def test_a_mean_is_extrapolated_elsewhere_than_to_the_middle_of_a_step(times, ratio):
    forward = process(CosineSchedule(), LinearAggregator(), others=())
    before, later, earlier = (forward.level(torch.tensor([t])) for t in times)
    if ratio is None:
        ratio = (earlier.log_snr - later.log_snr) / (later.log_snr - before.log_snr) / 2
    found = extrapolated({ANCHOR: torch.ones(1, 1, 1, 1)}, {ANCHOR: torch.zeros(1, 1, 1, 1)}, before, later, earlier)
    assert float(found[ANCHOR]) == pytest.approx(1 + float(ratio))


@SCHEDULES
def test_times_are_not_even_in_log_snr(schedule):
    log_snr = schedule.log_snr(time_grid(process(schedule, LinearAggregator()), 20, 1000)[:-1])
    steps = log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand(19))
    assert log_snr[0] >= -14 - 1e-6
