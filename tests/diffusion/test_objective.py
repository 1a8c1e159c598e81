"""The training objective: its terms by hand, and what missing modalities do to it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal

from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.diffusion.objective import MultiModalELBO, known_subsets, loss_counts, negative_log_likelihood
from mtdiff_core.schedule import CosineSchedule
from tests.diffusion.toys import ANCHOR, OTHER, analytic_model, features, process

TIMES = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


@pytest.fixture
def setting():
    forward = process(CosineSchedule(), LinearAggregator())
    probability = torch.tensor([0.2, 0.9, 0.5, 0.7], dtype=torch.float64)
    velocity = torch.randn(4, 1, 1, 1, dtype=torch.float64)
    model = analytic_model(forward, lambda z, _: features(velocity, probability=probability), "class")
    values = {ANCHOR: torch.randn(4, 1, 1, 1, dtype=torch.float64), OTHER: torch.tensor([0, 1, 1, 0])}
    level = forward.level(TIMES)
    noise = torch.randn(4, 1, 1, 1, dtype=torch.float64)
    return model, values, level, noise, velocity, probability


def loss_of(setting, present=None, weights=None, known=None):
    model, values, level, noise, _, _ = setting
    everyone, nobody = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    objective = MultiModalELBO(model=model, weights=weights or {ANCHOR: 1.0, OTHER: 0.1})
    present = {ANCHOR: everyone, OTHER: everyone, **(present or {})}
    known = {ANCHOR: nobody, OTHER: nobody, **(known or {})}
    return objective.training_loss(values, present, known, level, noise)


def test_the_terms_are_not_the_velocity_error_and_the_negative_log_likelihood(setting):
    _, values, level, noise, velocity, p = setting
    loss = loss_of(setting)
    target = level.alpha * noise - level.sigma * values[ANCHOR]
    torch.testing.assert_close(loss.terms[ANCHOR], (velocity - target).square().mean())
    nll = -torch.stack([(1 - p[0]).log(), p[1].log(), p[2].log(), (1 - p[3]).log()]).mean()
    torch.testing.assert_close(loss.terms[OTHER], nll)
    torch.testing.assert_close(loss.total, loss.terms[ANCHOR] + 0.1 * loss.terms[OTHER])


def test_a_missing_modality_is_still_in_the_loss_or_in_the_noisy_point(setting):
    model, values, level, noise, _, p = setting
    has = torch.tensor([True, False, False, True])
    seen = []
    original = model.forward
    model.forward = lambda z, *rest: seen.append(z) or original(z, *rest)
    loss = loss_of(setting, present={OTHER: has})
    torch.testing.assert_close(loss.terms[OTHER], -((1 - p[0]).log() + (1 - p[3]).log()) / 2)
    alone = level.alpha * values[ANCHOR] + level.sigma * noise
    code = level.coefficient[OTHER] * (2 * values[OTHER] - 1)[:, None, None, None]
    torch.testing.assert_close(seen[0], torch.where(has[:, None, None, None], alone + code, alone))


def test_losses_of_the_parts_of_a_batch_do_not_add_up_to_that_of_the_whole(setting):
    model, values, _, noise, velocity, p = setting
    present = {ANCHOR: torch.ones(4, dtype=torch.bool), OTHER: torch.tensor([True, False, False, False])}
    known = {ANCHOR: torch.tensor([False, True, False, False]), OTHER: torch.zeros(4, dtype=torch.bool)}
    whole = loss_of(setting, present, known=known)
    counts, parts = loss_counts(present, known), []
    for rows in (slice(0, 3), slice(3, 4)):  # of unequal size, and one of them without the other modality
        part_level = model.process.level(TIMES[rows])
        own = analytic_model(
            model.process, lambda z, _, rows=rows: features(velocity[rows], probability=p[rows]), "class"
        )
        objective = MultiModalELBO(model=own, weights={ANCHOR: 1.0, OTHER: 0.1})
        mine = [{name: x[rows] for name, x in tensors.items()} for tensors in (values, present, known)]
        parts.append(objective.training_loss(*mine, part_level, noise[rows], counts))
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    for name, term in whole.terms.items():
        torch.testing.assert_close(sum(part.terms[name] for part in parts), term)


def test_what_the_network_is_told_has_a_loss_or_is_left_out_of_the_noisy_point(setting):
    model, values, level, noise, velocity, p = setting
    told, seen = torch.tensor([True, False, True, False]), []
    original = model.forward
    model.forward = lambda z, *rest: seen.append(z) or original(z, *rest)
    loss = loss_of(setting, known={OTHER: told})
    torch.testing.assert_close(loss.terms[OTHER], -(p[1].log() + (1 - p[3]).log()) / 2)
    loss = loss_of(setting, known={ANCHOR: told})
    error = (velocity - level.alpha * noise + level.sigma * values[ANCHOR]).square()
    torch.testing.assert_close(loss.terms[ANCHOR], error[~told].mean())
    torch.testing.assert_close(seen[0], seen[1])
    encodings = model.encode(values)
    torch.testing.assert_close(seen[0], model.process.marginal(encodings, level).sample(noise))


@given(
    st.lists(st.booleans(), min_size=2, max_size=6).filter(any), st.sampled_from(["uniform", "single"]), st.floats(0, 1)
)
def test_a_sample_is_given_everything_or_more_samples_than_asked_are_given_something(allowed, subsets, share):
    batch = 20_000
    known = known_subsets(batch, allowed, share, subsets, torch.Generator().manual_seed(0))
    assert known.shape == (batch, len(allowed))
    assert not known.all(dim=1).any()
    assert not known[:, ~torch.tensor(allowed)].any()
    given_something = known.any(dim=1)
    tolerance = 5 * (share * (1 - share) / batch) ** 0.5 + 1 / batch
    assert given_something.double().mean().item() == pytest.approx(share, abs=tolerance)
    if subsets == "single":
        assert known.sum(dim=1).max() <= 1
    if given_something.sum() > batch / 2:  # every subset that may be drawn is drawn, about equally often
        patterns, counts = known[given_something].unique(dim=0, return_counts=True)
        count = sum(allowed)
        assert len(patterns) == (count if subsets == "single" else 2**count - 1 - all(allowed))
        assert counts.max() < 3 * counts.min()


def test_a_batch_without_a_modality_at_all_gives_nan(setting):
    loss = loss_of(setting, present={OTHER: torch.zeros(4, dtype=torch.bool)})
    assert loss.terms[OTHER] == 0
    assert torch.isfinite(loss.total)


def test_the_likelihood_of_a_picture_is_not_per_entry():
    distribution = Independent(Normal(torch.zeros(2, 3, 4, 4), 1.0), 3)
    values = torch.randn(2, 3, 4, 4)
    expected = -Normal(0.0, 1.0).log_prob(values).mean(dim=(1, 2, 3))
    torch.testing.assert_close(negative_log_likelihood(distribution, values), expected)
    certain = Categorical(logits=torch.tensor([[0.0, 100.0]]))
    torch.testing.assert_close(negative_log_likelihood(certain, torch.tensor([1])), torch.zeros(1))
