"""With one identity-encoded modality everything is DDPM (Ho et al. 2020), in float64 to 1e-10."""

from itertools import pairwise

import pytest
import torch

from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.diffusion.denoiser import Denoiser
from mtdiff_core.diffusion.objective import MultiModalELBO
from mtdiff_core.diffusion.sampling import ancestral, ddim
from mtdiff_core.schedule import LinearSchedule
from tests.diffusion.toys import ANCHOR, analytic_model, features, process

T = 1000
BETA = torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(1e-4, 0.02, T, dtype=torch.float64)])
ALPHA_BAR = (1 - BETA).cumprod(0)
SHAPE = (2, 4, 4)


@pytest.fixture(params=[LinearAggregator(), BlocksAggregator()], ids=["linear", "blocks"])
def ddpm(request):
    return process(LinearSchedule(), request.param, options={}, anchor_shape=SHAPE, others=())


@pytest.fixture
def x():
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def at(process_, step, batch=5):
    return process_.level(torch.full((batch,), step / T, dtype=torch.float64))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [1, 2, 57, 500, 999, 1000])
def test_marginal_transition_and_posterior_are_not_ddpms(ddpm, x, t):
    z = torch.randn_like(x)
    now, before = at(ddpm, t), at(ddpm, t - 1)
    marginal = ddpm.marginal({ANCHOR: x}, now)  # equation 4
    close(marginal.mean, ALPHA_BAR[t].sqrt() * x)
    close(marginal.std.expand(5, 2, 1, 1), (1 - ALPHA_BAR[t]).sqrt().expand(5, 2, 1, 1))
    transition = ddpm.transition(z, {ANCHOR: x}, before, now)  # equation 2
    close(transition.mean, (1 - BETA[t]).sqrt() * z)
    close(transition.std, BETA[t].sqrt().expand(5, 2, 1, 1))
    posterior = ddpm.posterior(z, {ANCHOR: x}, before, now)  # equations 6 and 7
    of_x = ALPHA_BAR[t - 1].sqrt() * BETA[t] / (1 - ALPHA_BAR[t])
    of_z = (1 - BETA[t]).sqrt() * (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t])
    close(posterior.mean, of_x * x + of_z * z)
    variance = (1 - ALPHA_BAR[t - 1]) / (1 - ALPHA_BAR[t]) * BETA[t]
    close(posterior.std**2, variance.expand(5, 2, 1, 1))


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_reading_the_anchor_off_the_velocity_is_not_ddpms_prediction_of_x(ddpm, x, t):
    model = analytic_model(ddpm, lambda z, _: features(z))
    epsilon_hat = torch.randn_like(x)
    level = at(ddpm, t)
    z = torch.randn_like(x)
    x_hat = (z - (1 - ALPHA_BAR[t]).sqrt() * epsilon_hat) / ALPHA_BAR[t].sqrt()  # equation 15
    velocity = ALPHA_BAR[t].sqrt() * epsilon_hat - (1 - ALPHA_BAR[t]).sqrt() * x_hat
    close(model.read_off(velocity, z, level, {}), x_hat)


@pytest.mark.parametrize("t", [1, 300, 900])
def test_the_training_loss_is_not_ddpms_simple_loss_over_alpha_bar(ddpm, x, t):
    answer = torch.randn(5, *SHAPE, dtype=torch.float64)
    model = analytic_model(ddpm, lambda z, _: features(answer))
    noise, level = torch.randn_like(x), at(ddpm, t)
    present = {ANCHOR: torch.ones(5, dtype=torch.bool)}
    objective = MultiModalELBO(model=model, weights={ANCHOR: 1.0})
    loss = objective.training_loss({ANCHOR: x}, present, {ANCHOR: ~present[ANCHOR]}, level, noise)
    z = ALPHA_BAR[t].sqrt() * x + (1 - ALPHA_BAR[t]).sqrt() * noise
    epsilon_hat = ALPHA_BAR[t].sqrt() * answer + (1 - ALPHA_BAR[t]).sqrt() * z
    simple = (noise - epsilon_hat).square().mean()  # equation 14
    close(loss.total, simple / ALPHA_BAR[t])


def network(z, log_snr):
    """Any smooth velocity will do."""
    return features(0.3 * z.flip(-1) + 0.1 * log_snr[:, None, None, None].clamp(-20, 20))


def test_ancestral_sampling_is_not_ddpms_algorithm_2(ddpm):
    model = analytic_model(ddpm, network)
    start = torch.randn(3, *SHAPE, dtype=torch.float64)
    times = torch.tensor([1000, 999, 998, 2, 1, 0], dtype=torch.float64) / T
    # Algorithm 2 over a chain of steps; the last one adds no noise.
    steps = [1000, 999, 998, 2, 1, 0]
    torch.manual_seed(5)
    z = start * (1 - ALPHA_BAR[T]).sqrt()
    for t, s in pairwise(steps):
        velocity = network(z, at(ddpm, t, 3).log_snr).map
        epsilon = ALPHA_BAR[t].sqrt() * velocity + (1 - ALPHA_BAR[t]).sqrt() * z
        alpha = ALPHA_BAR[t] / ALPHA_BAR[s]
        mean = (z - (1 - alpha) / (1 - ALPHA_BAR[t]).sqrt() * epsilon) / alpha.sqrt()
        variance = (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t]) * (1 - alpha)
        z = mean + variance.sqrt() * torch.randn_like(z)
    torch.manual_seed(5)
    sampled = ancestral(Denoiser(model, {}, start), times, lambda _: None)
    torch.testing.assert_close(sampled.values[ANCHOR], z, rtol=1e-9, atol=1e-9)


def test_ddim_sampling_is_not_song_et_als_equation_12(ddpm):
    model = analytic_model(ddpm, network)
    start = torch.randn(3, *SHAPE, dtype=torch.float64)
    steps = [1000, 700, 400, 100, 0]
    z = start * (1 - ALPHA_BAR[T]).sqrt()
    for t, s in pairwise(steps):
        velocity = network(z, at(ddpm, t, 3).log_snr).map
        epsilon = ALPHA_BAR[t].sqrt() * velocity + (1 - ALPHA_BAR[t]).sqrt() * z
        x_hat = (z - (1 - ALPHA_BAR[t]).sqrt() * epsilon) / ALPHA_BAR[t].sqrt()
        z = ALPHA_BAR[s].sqrt() * x_hat + (1 - ALPHA_BAR[s]).sqrt() * epsilon
    sampled = ddim(Denoiser(model, {}, start), torch.tensor(steps, dtype=torch.float64) / T, lambda _: None)
    torch.testing.assert_close(sampled.values[ANCHOR], z, rtol=1e-9, atol=1e-9)
