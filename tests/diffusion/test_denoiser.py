"""What is put in between network and sampler: known values, revealed parts, guidance."""

import pytest
import torch

from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.codecs import IdentityEncoder
from mtdiff_core.diffusion.denoiser import Denoiser, Guidance
from mtdiff_core.diffusion.sampling import SAMPLERS, time_grid
from mtdiff_core.schedule import CosineSchedule
from tests.diffusion.toys import ANCHOR, OTHER, analytic_model, features, process

MEANS, SPREAD = (-0.8, 0.9), 0.4


def unaggregated_class(schedule=None):
    """A scalar x and its class y, of which z_t carries nothing: only the head, exact here, knows about y."""
    schedule = schedule or CosineSchedule()
    aggregator = LinearAggregator()
    forward = process(schedule, aggregator, {OTHER: aggregator.ModalityOptions(curve="none")})
    mu = torch.tensor(MEANS, dtype=torch.float64)

    def answer(z, log_snr):
        alpha, sigma = schedule.alpha_sigma(log_snr[:1])
        point, variance = z[:, 0, 0, :1], alpha**2 * SPREAD**2 + sigma**2
        posterior = (-((point - alpha * mu) ** 2) / (2 * variance)).softmax(dim=1)  # (B, 2)
        x_given_y = mu + alpha * SPREAD**2 / variance * (point - alpha * mu)
        x_hat = (posterior * x_given_y).sum(dim=1)[:, None, None, None]
        velocity = (alpha * z - (alpha**2 + sigma**2) * x_hat) / sigma
        return features(velocity, probability=posterior[:, 1])

    return analytic_model(forward, answer, "class")


def guided(scale, label=1, n=4000):
    model = unaggregated_class()
    torch.manual_seed(0)
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64)
    denoiser = Denoiser(model, {OTHER: torch.full((n,), label)}, noise, Guidance(scale=scale))
    return SAMPLERS["ddim"](denoiser, time_grid(model.process, 100, 1000), lambda _: None).values[ANCHOR].flatten()


def test_exact_self_guidance_of_scale_1_does_not_give_the_conditional_distribution():
    # grad log p(z) + grad log p(y | z) = grad log p(z | y): with the exact head, sampling is exactly conditional.
    x = guided(scale=1.0)
    assert x.mean().item() == pytest.approx(MEANS[1], abs=0.05)
    assert x.std().item() == pytest.approx(SPREAD, abs=0.05)


def test_guidance_of_scale_0_knows_the_class_or_more_scale_does_not_sharpen():
    without, strong = guided(scale=0.0), guided(scale=3.0)
    assert without.mean().item() == pytest.approx(sum(MEANS) / 2, abs=0.08)
    assert (strong > 0).double().mean() > 0.995
    assert strong.mean() > guided(scale=1.0).mean()


class Telling(torch.nn.Module):
    """A network whose answer depends on whether it is told the class."""

    def forward(self, z, log_snr, context):
        told = context.flags[:, 3][:, None, None, None]
        return features(0.2 * z - told, probability=torch.full((len(z),), 0.5, dtype=z.dtype))


def test_guidance_by_context_is_not_an_extrapolation_away_from_the_untold_answer():
    model = unaggregated_class()
    model.observes, model.backbone = True, Telling()
    noise = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    known = {OTHER: torch.ones(5, dtype=torch.int64)}
    level = model.process.level(torch.full((5,), 0.5, dtype=torch.float64))

    def anchor(scale, known):
        return Denoiser(model, known, noise, Guidance(scale=scale, by_context=True))(noise, level)[0][ANCHOR]

    told, untold = anchor(0.0, known), anchor(0.0, {})
    assert not torch.allclose(told, untold)
    torch.testing.assert_close(anchor(2.0, known), told + 2.0 * (told - untold))
    torch.testing.assert_close(anchor(2.0, {}), untold)  # nothing to follow


class Half(IdentityEncoder):
    """A picture of which the left half is shown."""

    def reveals(self, values):
        where = torch.zeros_like(values[:, :1], dtype=torch.bool)
        where[..., : values.shape[-1] // 2] = True
        return where


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("derived", [True, False])
def test_a_revealed_part_of_the_anchor_comes_out_changed_or_an_unrelated_value_is_copied_into_it(sampler, derived):
    forward = process(CosineSchedule(), LinearAggregator(), anchor_shape=(1, 4, 4))

    def answer(z, log_snr):
        return features(0.1 * z, mean=z, std=torch.ones_like(z))

    model = analytic_model(forward, answer, "pixel")
    model.encoders[OTHER] = Half()
    model.reveal = frozenset({OTHER} if derived else ())
    noise, shown = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    times = time_grid(forward, 6, 1000)
    sampled = SAMPLERS[sampler](Denoiser(model, {OTHER: shown}, noise), times, lambda _: None).values
    assert torch.equal(sampled[OTHER], shown)
    assert torch.equal(sampled[ANCHOR][..., :2], shown[..., :2]) == derived
    assert not torch.equal(sampled[ANCHOR][..., 2:], shown[..., 2:])
