"""The bound against exact values, with the exact denoiser plugged in as the network."""

import math

import attrs
import pytest
import torch

from mtdiff_core import FieldSpec, component
from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.data.batches import Batch
from mtdiff_core.diffusion.bound import BoundEvaluator, Steps, groups_of, log_snr_grid
from mtdiff_core.schedule import CosineSchedule
from mtdiff_image import Image
from tests.diffusion.toys import ANCHOR, OTHER, Toy, analytic_model, features, process
from tests.grey_levels import LEVELS, of_one_256th, one_pixel

CORRELATION, EXACT_NLL = 0.8, 2.3271
COVARIANCE = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=torch.float64)
F64 = torch.float64


@component
class Curve(LinearAggregator):
    """Any coefficient, as a function of the levels."""

    function: object = attrs.field()

    def coefficient(self, options, alpha, sigma):
        return self.function(alpha, sigma)


# Of method.md, section 4: nats at T = 50, 200, 1000, 4000.
ROWS = {
    "own block": (BlocksAggregator(), (5.9634, 3.1099, 2.4778, 2.3645)),
    "c = 0": (Curve(function=lambda a, s: 0 * a), (4.2267, 2.7359, 2.4058, 2.3466)),
    "c = 0.5 a": (Curve(function=lambda a, s: 0.5 * a), (4.3413, 2.7604, 2.4105, 2.3478)),
    "c = 0.5 a s^2": (Curve(function=lambda a, s: 0.5 * a * s**2), (4.2079, 2.7473, 2.4233, 2.3652)),
    "c = 0.5 2 a s": (Curve(function=lambda a, s: a * s), (4.8782, 3.2515, 2.8922, 2.8278)),
}


def gaussian_pair(aggregator):
    """Two correlated scalars in one block each or one for both, and the exact ``p(y | z)`` and ``v``."""
    forward = process(CosineSchedule(), aggregator)
    channels = forward.layout.space[0]

    def answer(z, log_snr):
        level = forward.level_at(log_snr)
        alpha, sigma = level.alpha[:, :1], level.sigma[:, :1]  # (B, 1, 1, 1)
        c = level.coefficient[OTHER]
        mixing = torch.zeros(len(z), channels, 2, dtype=F64)  # z = mixing (x, y) + sigma noise
        mixing[:, 0, 0] = alpha.flatten()
        mixing[:, -1, 1] += c.flatten()
        noise = (sigma**2).flatten()[:, None, None] * torch.eye(channels, dtype=F64)
        gain = COVARIANCE @ mixing.mT @ torch.linalg.inv(mixing @ COVARIANCE @ mixing.mT + noise)
        x_hat, y_hat = torch.einsum("bij,bjhw->bihw", gain, z).split(1, dim=1)
        variance = (COVARIANCE - gain @ mixing @ COVARIANCE)[:, 1, 1]
        others = c * y_hat if channels == 1 else 0
        velocity = (alpha * (z[:, :1] - others) - (alpha**2 + sigma**2) * x_hat) / sigma
        return features(velocity, mean=y_hat, std=variance.clamp(min=1e-12).sqrt()[:, None, None, None])

    return analytic_model(forward, answer, "pixel")


def cubature(dimensions):
    """Points whose mean of any quadratic form is its expectation under a standard normal, ``(2 d, d)``."""
    points = math.sqrt(dimensions) * torch.eye(dimensions, dtype=F64)
    return torch.cat([points, -points])


def exact_bound(model, steps, known=()):
    """The expected bound of :func:`gaussian_pair`, without Monte Carlo: every term is a quadratic form."""
    channels = model.process.layout.space[0]
    points = cubature(2 + channels)
    x = points[:, :2] @ torch.linalg.cholesky(COVARIANCE).T
    values = {ANCHOR: x[:, :1, None, None], OTHER: x[:, 1:, None, None]}
    present = {name: torch.ones(len(x), dtype=torch.bool) for name in values}
    noise = points[:, 2:, None, None]
    grid = torch.linspace(13, -13, steps, dtype=F64)
    evaluator = BoundEvaluator(
        model=model, modalities={ANCHOR: Toy(), OTHER: Toy()}, known=known, steps=Steps.all(grid), batch_size=2000
    )
    return evaluator.bound(
        Batch(values=values, present=present),
        torch.Generator(),
        lambda shape: noise.repeat(shape[0] // len(x), 1, 1, 1),
    )


@pytest.mark.parametrize("row", ROWS)
def test_a_checked_figure_is_not_reproduced(row):
    aggregator, figures = ROWS[row]
    model = gaussian_pair(aggregator)
    found = [exact_bound(model, steps).total.mean().item() for steps in (50, 200, 1000, 4000)]
    assert found == pytest.approx(figures, abs=5e-5)


@pytest.mark.parametrize("row", list(ROWS)[:3])
def test_the_gap_to_the_exact_likelihood_does_not_close_as_one_over_the_steps(row):
    model = gaussian_pair(ROWS[row][0])
    gaps = [exact_bound(model, steps).total.mean().item() - EXACT_NLL for steps in (500, 1000, 2000)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.15)


SHARE_OF_ONE, MEANS, SPREAD = 0.3, torch.tensor([-0.8, 0.9], dtype=F64), 0.4
SHARES = torch.tensor([1 - SHARE_OF_ONE, SHARE_OF_ONE], dtype=F64)
SIGNS = torch.tensor([-1.0, 1.0], dtype=F64)
HINTS = {"added and fading": lambda a, s: 2 * a * s**2, "mixed in": lambda a, s: 0.5 * a, "none": lambda a, s: 0 * a}


def labelled_scalar(function):
    """A sign y and a scalar x | y in one pixel, and their exact posteriors; also of x alone, a mixture of normals."""
    forward = process(CosineSchedule(), Curve(function=function))

    def answer(z, log_snr):
        level = forward.level_at(log_snr)
        alpha, sigma, c = (x[:, 0, 0] for x in (level.alpha, level.sigma, level.coefficient[OTHER]))  # (B, 1) each
        point = z[:, 0, 0]  # (B, 1)
        centre, variance = alpha * MEANS + c * SIGNS, alpha**2 * SPREAD**2 + sigma**2  # (B, 2), (B, 1)
        posterior = (SHARES.log() - (point - centre) ** 2 / (2 * variance)).softmax(dim=1)
        x_hat = (posterior * (MEANS + alpha * SPREAD**2 / variance * (point - centre))).sum(dim=1, keepdim=True)
        y_hat = (posterior * SIGNS).sum(dim=1, keepdim=True)
        velocity = (alpha * (point - c * y_hat) - (alpha**2 + sigma**2) * x_hat) / sigma
        return features(velocity[:, :, None, None], probability=posterior[:, 1])

    return analytic_model(forward, answer, "class")


def labelled_samples(count):
    torch.manual_seed(0)
    y = (torch.rand(count, dtype=F64) < SHARE_OF_ONE).long()
    x = MEANS[y] + SPREAD * torch.randn(count, dtype=F64)
    log_normal = -((x - MEANS[y]) ** 2) / (2 * SPREAD**2) - math.log(SPREAD * math.sqrt(2 * math.pi))
    values = {ANCHOR: x[:, None, None, None], OTHER: y}
    present = {name: torch.ones(count, dtype=torch.bool) for name in values}
    return Batch(values=values, present=present), -(SHARES[y].log() + log_normal)


def evaluator(model, steps, known=()):
    toys = {ANCHOR: Toy(), OTHER: Toy()}
    return BoundEvaluator(model=model, modalities=toys, known=known, steps=steps, batch_size=100_000)


def gap(model, steps, count=4000):
    """Bound less exact, paired by sample: mean and standard error."""
    batch, exact = labelled_samples(count)
    grid = torch.linspace(13, -13, steps, dtype=F64)
    over = evaluator(model, Steps.all(grid)).bound(batch, torch.Generator().manual_seed(1)).total - exact
    return over.mean().item(), over.std().item() / math.sqrt(count)


@pytest.mark.parametrize("hint", HINTS)
def test_the_bound_of_a_class_and_a_scalar_is_below_the_exact_value_or_does_not_approach_it(hint):
    model = labelled_scalar(HINTS[hint])
    (coarse, _), (fine, error) = gap(model, 50), gap(model, 1000)
    assert fine > -3 * error
    assert fine < 0.15
    assert fine < coarse / 5


def test_a_hint_that_never_fades_against_the_noise_costs_nothing():
    mean, error = gap(labelled_scalar(lambda a, s: 2 * a * s), 1000)
    assert mean - 2 * error > 0.15  # above what is left of the others


def test_the_bound_of_a_mixture_of_normals_is_below_the_exact_value_or_does_not_approach_it():
    batch, _ = labelled_samples(3000)
    x = batch.values[ANCHOR].flatten()
    log_normal = -((x[:, None] - MEANS) ** 2) / (2 * SPREAD**2) - math.log(SPREAD * math.sqrt(2 * math.pi))
    exact = -(SHARES.log() + log_normal).logsumexp(dim=1)
    lacking = Batch(values=batch.values, present={**batch.present, OTHER: ~batch.present[OTHER]})
    grid = torch.linspace(13, -13, 1000, dtype=F64)
    found = evaluator(labelled_scalar(HINTS["none"]), Steps.all(grid)).bound(lacking, torch.Generator().manual_seed(1))
    over = found.total - exact
    error = over.std().item() / math.sqrt(len(x))
    assert -3 * error < over.mean().item() < 0.15
    assert (found.entries == 1).all()
    assert (found.reconstruction[OTHER] == 0).all()


def test_what_is_known_is_paid_for():
    # H(y | x) of a normal pair, whose y is read off a clean x
    conditional = 0.5 * math.log(2 * math.pi * math.e * (1 - CORRELATION**2))
    found = exact_bound(gaussian_pair(ROWS["c = 0"][0]), 50, known=(ANCHOR,))
    assert found.total.mean().item() == pytest.approx(conditional, abs=1e-4)
    given = exact_bound(gaussian_pair(ROWS["own block"][0]), 2000, known=(OTHER,)).total.mean().item()
    assert conditional < given < exact_bound(gaussian_pair(ROWS["own block"][0]), 2000).total.mean().item()


def test_some_steps_stand_for_other_than_all():
    model, grid = labelled_scalar(HINTS["added and fading"]), torch.linspace(13, -13, 201, dtype=F64)
    one, _ = labelled_samples(1)
    copies = 4000
    batch = Batch(
        values={name: x.expand(copies, *x.shape[1:]) for name, x in one.values.items()},
        present={name: x.expand(copies) for name, x in one.present.items()},
    )
    fixed = torch.tensor(0.7, dtype=F64)  # the same noise everywhere: what is left is the choice of steps

    def sums(steps):
        found = evaluator(model, steps).bound(
            batch, torch.Generator().manual_seed(2), lambda shape: fixed.expand(shape)
        )
        return torch.stack([x.sum(dim=0) for x in found.diffusion.values()]).sum(dim=0), found

    (everything, _), (estimate, found) = sums(Steps.all(grid)), sums(Steps.some(grid, 20))
    assert everything.std() < 1e-9
    error = estimate.std() / math.sqrt(copies)
    assert (estimate.mean() - everything[0]).abs() < 4 * error
    assert found.variance.mean() == pytest.approx(estimate.var().item(), rel=0.15)
    assert len(found.log_snr) == 10


def test_modalities_are_told_apart_where_they_are_added_or_not_where_they_are_not():
    assert groups_of(gaussian_pair(BlocksAggregator())) == [(ANCHOR,), (OTHER,)]
    assert groups_of(gaussian_pair(ROWS["c = 0.5 a"][0])) == [(ANCHOR, OTHER)]
    assert groups_of(labelled_scalar(HINTS["none"]), [ANCHOR]) == [(OTHER,)]
    apart = process(CosineSchedule(), LinearAggregator(), {OTHER: LinearAggregator.ModalityOptions(curve="none")})
    assert groups_of(analytic_model(apart, None, "class")) == [(ANCHOR,), (OTHER,)]


def test_a_grid_leaves_signal_at_its_end_or_begins_where_no_network_was_trained():
    shifted = {OTHER: BlocksAggregator.ModalityOptions(log_snr_shift=2.0)}
    forward = process(CosineSchedule(), BlocksAggregator(), shifted)
    grid = log_snr_grid(forward, 30, 1000)
    assert grid[0] == pytest.approx(CosineSchedule().log_snr(torch.tensor(1e-3, dtype=F64)).item())
    assert grid[-1] == -15
    torch.testing.assert_close(grid.diff(), grid.diff().mean().expand(29))


# Through the image's own likelihood of 8-bit grey levels

GREY = Image().bind(FieldSpec(shape=(1, 1, 1), dtype="uint8"))


def a_picture_of_each_level(copies=1):
    """Pictures of one pixel, each level as often."""
    return one_pixel(LEVELS.repeat(copies))


def test_a_model_that_gives_every_grey_level_one_256th_has_other_than_8_bits_per_dimension():
    forward = process(CosineSchedule(), ROWS["c = 0"][0])
    mean, std = of_one_256th()

    def answer(z, log_snr):
        of_rows = (one_pixel(x.repeat(len(z) // 256)) for x in (mean, std))
        return features(torch.zeros_like(z), *of_rows)

    pictures = a_picture_of_each_level()
    found = BoundEvaluator(
        model=analytic_model(forward, answer, "pixel"),
        modalities={ANCHOR: Toy(), OTHER: GREY},
        known=(ANCHOR,),
        steps=Steps.all(torch.linspace(13, -13, 5, dtype=F64)),
    ).bound(
        Batch(values={ANCHOR: pictures, OTHER: pictures}, present=dict.fromkeys((ANCHOR, OTHER), torch.ones(256) > 0)),
        torch.Generator(),
    )
    torch.testing.assert_close(found.bits_per_dimension, torch.full((256,), 8.0, dtype=F64))


def bits_of_grey_levels(steps, copies=4):
    """The bound of evenly spread grey levels under the exact denoiser, in bits per dimension: mean and its error."""
    forward = process(CosineSchedule(), BlocksAggregator(), others=())

    def answer(z, log_snr):
        level = forward.level_at(log_snr)
        alpha, sigma = level.alpha, level.sigma  # (B, 1, 1, 1)
        share = (-((z - alpha * LEVELS) ** 2) / (2 * sigma**2)).softmax(dim=3)  # (B, 1, 1, 256)
        x_hat = (share * LEVELS).sum(dim=3, keepdim=True)
        return features((alpha * z - x_hat) / sigma)

    values = a_picture_of_each_level(copies)
    found = BoundEvaluator(
        model=analytic_model(forward, answer),
        modalities={ANCHOR: GREY},
        steps=Steps.all(torch.linspace(15, -13, steps, dtype=F64)),
        batch_size=len(values),
    ).bound(Batch(values={ANCHOR: values}, present={ANCHOR: torch.ones(len(values)) > 0}), torch.Generator())
    bits = found.bits_per_dimension
    return bits.mean().item(), bits.std().item() / math.sqrt(len(bits))


def test_the_bound_of_evenly_spread_grey_levels_is_below_8_bits_or_does_not_approach_them():
    (coarse, _), (fine, error) = bits_of_grey_levels(40), bits_of_grey_levels(400)
    assert fine > 8 - 3 * error
    assert fine < 8.4
    assert fine - 8 < (coarse - 8) / 8
