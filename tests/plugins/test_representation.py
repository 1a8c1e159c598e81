"""The representation: whitening, codes, the head, how it is drawn, and its options."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from mtdiff_core import Features, FeatureShapes, FieldSpec, UserError
from mtdiff_core.randomness import generator
from mtdiff_representation import Representation
from mtdiff_representation.mixture import Mixture
from mtdiff_representation.strip import ABOVE, BELOW, draw_bars
from mtdiff_representation.whitening import Whitening
from tests.slots import noisy_slot, silent_slot

SLOT = (1, 4, 4)
SHAPES = FeatureShapes(map=(8, 4, 4), bottleneck=(16, 2, 2), pooled=24)


def representation(dimensions=5, **options):
    return Representation(dimensions=dimensions, **options).bind(FieldSpec(shape=(1, 8, 8), dtype="uint8"))


def mixed(count, width, seed):
    """Correlated features of very different sizes, off the origin."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=random)).Q * torch.logspace(-1, 1, width)[:, None]
    return torch.randn(count, width, generator=random) @ mixing + 10


# Whitening


@given(seed=st.integers(0, 10**6), width=st.integers(2, 20), kept=st.integers(1, 20), count=st.integers(50, 200))
@settings(max_examples=30)
def test_whitened_training_features_are_correlated_or_off_centre(seed, width, kept, count):
    kept = min(kept, width)
    features = mixed(count, width, seed)
    white = Whitening.fit(features, kept)(features).double()
    assert white.shape == (count, kept)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(kept).double(), atol=1e-2, rtol=0)
    torch.testing.assert_close(white.T @ white / count, torch.eye(kept).double(), atol=1e-2, rtol=0)


def test_a_dimension_of_little_variance_comes_first():
    random = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(4, 4, generator=random)).Q
    features = torch.randn(500, 4, generator=random) * torch.tensor([1.0, 9.0, 0.1, 3.0]) @ axes.T
    directions = torch.nn.functional.normalize(Whitening.fit(features, 3).projection, dim=0)
    along = (axes.T @ directions).abs().argmax(dim=0)
    assert along.tolist() == [1, 3, 0]


def test_a_dimension_without_variance_blows_up():
    features = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    flat = torch.cat([features, 1e-9 * torch.randn(100, 3)], dim=1)
    white = Whitening.fit(flat, 6)(flat)
    assert white[:, 3:].abs().max() < 1e-2


def test_equal_features_are_whitened_with_other_signs():
    features = mixed(200, 6, seed=1)
    once, again = Whitening.fit(features, 6), Whitening.fit(features.flip(0), 6)
    torch.testing.assert_close(once.projection, again.projection, rtol=1e-2, atol=1e-4)


def test_a_whitening_does_not_survive_its_state():
    features = mixed(50, 4, seed=0)
    whitening = Whitening.fit(features, 2)
    assert Whitening.from_state(whitening.state())(features).equal(whitening(features))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.randn(50, 3), "dimensions: the features have 3 dimensions only, not 4"),
        (torch.randn(4, 8), "dimensions: 4 samples cannot say how 4 dimensions vary"),
        (torch.ones(50, 8), "all samples have the same features"),
    ],
)
def test_features_that_cannot_be_whitened_are_taken(features, message):
    with pytest.raises(UserError, match=message):
        Whitening.fit(features, 4)


# Encoder


@pytest.mark.parametrize("codes", ["patches", "spread"])
@pytest.mark.parametrize(
    ("dimensions", "slot"), [(1, SLOT), (5, SLOT), (16, SLOT), (16, (3, 8, 4)), (7, (1, 2, 9)), (7, (1, 9, 1))]
)
def test_codes_overlap_or_are_not_of_unit_rms(codes, dimensions, slot):
    made = representation(dimensions, codes=codes).encoder(slot).codes.flatten(1)
    torch.testing.assert_close(made @ made.T / made.shape[1], torch.eye(dimensions), atol=1e-5, rtol=0)


def test_a_channel_has_no_patch_where_there_is_one_for_each():
    assert (representation(4).encoder((3, 8, 8)).codes != 0).any(dim=(2, 3)).sum(dim=0).tolist() == [2, 1, 1]


def test_a_patch_is_no_rectangle_or_hardly_fills_its_share_of_the_slot():
    codes = representation(6).encoder((1, 12, 12)).codes[:, 0]
    for code in codes:
        inside = code != 0
        assert inside.equal(inside.any(dim=1)[:, None] & inside.any(dim=0))
        assert int(inside.sum()) == 12 * 12 / 6


def test_a_white_vector_is_not_encoded_at_unit_rms():
    white = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    assert math.isclose(representation().encoder(SLOT)(white).square().mean(), 1, rel_tol=0.03)


def test_the_encoding_is_not_the_weighted_sum_of_the_codes():
    encoder, values = representation().encoder(SLOT), torch.randn(3, 5)
    by_hand = sum(values[:, d, None, None, None] * encoder.codes[d] for d in range(5)) / 5**0.5
    torch.testing.assert_close(encoder(values), by_hand)


def test_the_expected_encoding_depends_on_more_than_the_mean_or_not_linearly():
    encoder, (one, other) = representation().encoder(SLOT), torch.randn(2, 3, 5)

    def expected(mean, width):
        return encoder.expected(Independent(Normal(mean, width), 1))

    torch.testing.assert_close(expected(one, 0.1), encoder(one))
    torch.testing.assert_close(expected(one, 5.0), encoder(one))
    torch.testing.assert_close(expected(2 * one - other, 1.0), 2 * expected(one, 1.0) - expected(other, 1.0))


def test_more_dimensions_than_orthogonal_codes_are_taken():
    with pytest.raises(UserError, match=r"17 dimensions have no orthogonal codes in a slot of shape \(1, 4, 4\)"):
        representation(17).encoder(SLOT)


# Head


def features(count=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = {"map": SHAPES.map, "bottleneck": SHAPES.bottleneck, "pooled": (SHAPES.pooled,)}
    return Features(**{name: torch.randn(count, *shape, generator=random) for name, shape in shapes.items()})


def test_an_untrained_head_is_not_the_prior_of_a_white_vector():
    distribution = representation().decoder(SLOT, SHAPES)(features(), silent_slot(6, SLOT))
    assert distribution.batch_shape == (6,)
    assert distribution.event_shape == (5,)
    assert distribution.mean.abs().max() == 0
    torch.testing.assert_close(distribution.stddev, torch.ones(6, 5), rtol=0, atol=0.1)


def test_a_head_to_which_nothing_is_visible_is_not_exactly_the_prior():
    slot = noisy_slot(torch.zeros(6, *SLOT), coefficient=0.0, variance=1.0, clarity=0.0)
    distribution = representation().decoder(SLOT, SHAPES)(features(), slot)
    assert distribution.mean.abs().max() == 0
    assert (distribution.stddev == 1).all()


def test_the_head_cannot_learn_the_code_that_the_map_holds():
    # Pooled features are cut off: only the matched filter can tell.
    modality = representation(dropout=0.0, codes="spread")
    head, encoder = modality.decoder(SLOT, SHAPES), modality.encoder(SLOT)
    values = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    maps = features(64).map
    maps[:, 3] = encoder(values)[:, 0]
    seen = Features(map=maps, bottleneck=features(64).bottleneck, pooled=torch.zeros(64, 24))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -head(seen, silent_slot(64, SLOT)).log_prob(values).mean()
        loss.backward()
        optimizer.step()
    assert (head(seen, silent_slot(64, SLOT)).mean - values).square().mean() < 0.05


def test_a_head_that_sees_nothing_else_misses_the_posterior_of_a_code_in_noise():
    # z = c sum_d r_d code_d / sqrt(D) + s eps, r standard normal: regression on orthogonal codes, each on its own.
    modality, signal, noise = representation(), 0.4, 1.5
    head, encoder = modality.decoder(SLOT, SHAPES), modality.encoder(SLOT)
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    z = signal * encoder(values) + noise * torch.randn(7, *SLOT)
    design = signal * encoder(torch.eye(5)).flatten(1).T  # (16, 5)
    precision = torch.eye(5) + design.T @ design / noise**2
    found = head(features(7), noisy_slot(z, signal, noise**2, clarity=0.0))
    torch.testing.assert_close(found.mean, torch.linalg.solve(precision, design.T @ z.flatten(1).T / noise**2).T)
    torch.testing.assert_close(found.stddev, precision.inverse().diagonal().sqrt().expand(7, 5))


def test_a_head_that_sees_nothing_else_misses_the_posterior_under_the_mixture_of_the_training_vectors():
    prior, signal, noise, count = three_clusters(), 0.4, 1.5, 200_000
    modality = representation(2).bind(representation(2).spec, prior.state())
    head, encoder = modality.decoder(SLOT, SHAPES), modality.encoder(SLOT)
    draws = prior.given(torch.zeros(1, 2), torch.zeros(1, 2)).sample((count,))[:, 0]  # (count, 2)
    z = signal * encoder(draws[:1]) + noise * torch.randn(1, *SLOT)
    log_likelihood = -(z - signal * encoder(draws)).square().sum(dim=(1, 2, 3)) / (2 * noise**2)
    share = log_likelihood.softmax(dim=0)
    mean = share @ draws
    found = head(features(1), noisy_slot(z, signal, noise**2, clarity=0.0))
    torch.testing.assert_close(found.mean[0], mean, atol=0.02, rtol=0)
    torch.testing.assert_close(found.variance[0], share @ (draws - mean).square(), atol=0.03, rtol=0)


def test_the_network_is_heard_where_noise_hides_all_else_or_not_heard_elsewhere():
    head = representation(dropout=0.0).decoder(SLOT, SHAPES)
    torch.nn.init.normal_(head.layers[-1].bias, std=2.0)
    blind, seeing = (noisy_slot(torch.zeros(6, *SLOT), 0.0, 1.0, clarity=c) for c in (0.0, 1.0))
    assert head(features(), blind).mean.abs().max() == 0
    assert head(features(), seeing).mean.abs().min() > 0


# Mixture


def three_clusters():
    return Mixture(
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([[-1.0, 0.0], [1.0, 1.0], [1.0, -1.5]]),
        torch.tensor([[0.1, 0.2], [0.1, 0.1], [0.2, 0.05]]),
    )


def test_clusters_are_not_found_again():
    made = three_clusters()
    nothing = torch.zeros(1, 2)
    torch.manual_seed(0)
    found = Mixture.fit(made.given(nothing, nothing).sample((4000,))[:, 0], 3)
    order, own = found.weight.argsort(descending=True), made.weight.argsort(descending=True)
    torch.testing.assert_close(found.weight[order], made.weight[own], atol=0.02, rtol=0)
    torch.testing.assert_close(found.mean[order], made.mean[own], atol=0.05, rtol=0)
    torch.testing.assert_close(found.variance[order], made.variance[own], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "vectors", [torch.zeros(100, 3), torch.randn(3, 2), torch.randn(50, 2)[:1].expand(50, 2)], ids=["0", "few", "one"]
)
def test_few_or_equal_vectors_give_no_mixture_or_one_of_many(vectors):
    mixture = Mixture.fit(vectors, 64)
    assert len(mixture.weight) <= max(1, len(vectors) // 8)
    assert all(x.isfinite().all() for x in mixture.state().values())
    assert (mixture.variance > 0).all()


@given(seed=st.integers(0, 10**6), log_precision=st.floats(-12, 16))
@example(seed=0, log_precision=16)
@example(seed=0, log_precision=-12)
@settings(max_examples=30)
def test_what_was_seen_exactly_is_not_believed_or_nothing_seen_changes_the_prior(seed, log_precision):
    random = torch.Generator().manual_seed(seed)
    prior, seen = three_clusters(), torch.randn(4, 2, generator=random)
    found = prior.given(torch.full((4, 2), math.exp(log_precision)), seen)
    assert found.mean.isfinite().all()
    assert found.log_prob(seen).isfinite().all()
    if log_precision > 14:
        torch.testing.assert_close(found.mean, seen, atol=0.01, rtol=0)
        torch.testing.assert_close(found.mode, seen, atol=0.01, rtol=0)
    if log_precision < -10:
        torch.testing.assert_close(found.mean, (prior.weight @ prior.mean).expand(4, 2), atol=0.01, rtol=0)


def test_the_mode_is_that_of_an_unlikely_component_however_narrow():
    mean = torch.tensor([[0.0] * 16, [1.0] * 16])
    prior = Mixture(torch.tensor([0.999, 0.001]), mean, torch.tensor([[1.0] * 16, [0.1] * 16]))
    nothing = torch.zeros(1, 16)
    assert prior.given(nothing, nothing).mode[0].equal(mean[0])
    assert prior.given(nothing + 100, nothing + 1).mode[0].allclose(mean[1], atol=0.05)


def test_a_lone_vector_is_taken_for_certain():
    vectors = torch.cat([torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), torch.full((1, 2), 20.0)])
    mixture = Mixture.fit(vectors, 4)
    (lone,) = (mixture.mean[:, 0] > 10).nonzero()[0]
    torch.testing.assert_close(mixture.variance[lone], torch.full((2,), 0.18), atol=0.03, rtol=0)


def test_bf16_loses_what_a_slot_of_little_noise_says():
    head = representation(16).decoder((1, 16, 16), SHAPES).eval()
    values = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    seen = Features(map=torch.zeros(4, 8, 16, 16), bottleneck=torch.zeros(4, 16, 2, 2), pooled=torch.zeros(4, 24))
    noise = 0.0025
    z = representation(16).encoder((1, 16, 16))(values) + noise * torch.randn(4, 1, 16, 16)
    slot = noisy_slot(z, 1.0, noise**2)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(seen, slot).log_prob(values)
    torch.testing.assert_close(found, head(seen, slot).log_prob(values), atol=0.1, rtol=0)


def test_the_head_s_width_does_not_depend_on_what_it_sees_or_collapses():
    head = representation().decoder(SLOT, SHAPES).eval()
    torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    assert head(features(), silent_slot(6, SLOT)).stddev.std(dim=0).min() > 0
    torch.nn.init.normal_(head.layers[-1].weight, std=100.0)
    assert head(features(), silent_slot(6, SLOT)).stddev.min() >= math.exp(-3) * 0.998


# Reading, writing and drawing


def test_vectors_change_on_their_way_to_files():
    modality, values = representation(), torch.randn(3, 5)
    natural = modality.natural(modality.prepare(values, generator(0)))
    assert natural.equal(values)
    assert natural.dtype == torch.float32
    assert modality.describe(values) is None


def test_a_bar_has_the_wrong_side_colour_or_length():
    (picture,) = draw_bars(torch.tensor([[3.0, -3.0, 0.0, 1.5]]))
    assert picture.shape == (3, 32, 8)
    assert picture.dtype == torch.uint8
    assert (picture[:, :16, 0] == torch.tensor(ABOVE, dtype=torch.uint8)[:, None]).all(), "3 is not full height, red"
    assert (picture[:, 17:, 2] == torch.tensor(BELOW, dtype=torch.uint8)[:, None]).all(), "-3 is not full depth, blue"
    inked = (picture.float() - 247).abs().amax(dim=0) > 0
    assert inked.sum(dim=0).tolist()[4:] == [1, 1, 9, 9], "0 is more than the middle line, or 1.5 is not half as high"


def test_a_long_vector_makes_a_wide_picture():
    assert draw_bars(torch.randn(2, 500)).shape == (2, 3, 32, 128)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extractor": "torchvision"}, "network: the extractor 'torchvision' needs it"),
        ({"extractor": "torchvision", "network": "resnet18"}, "either weights = FILE or download = true"),
        ({"extractor": "timm", "network": "a", "weights": "w", "download": True}, "either weights = FILE or download"),
        ({"extractor": "precomputed"}, "features: the extractor 'precomputed' needs it"),
        ({"network": "resnet18"}, "network: is read by the extractor 'torchvision', not by 'self-trained'"),
        ({"extractor": "precomputed", "features": "f", "steps": 3}, "steps: is read by the extractor 'self-trained'"),
        ({"extractor": "dino"}, "must be one of 'self-trained', 'torchvision', 'timm', 'precomputed'"),
    ],
)
def test_options_that_do_not_go_together_are_taken(options, message):
    with pytest.raises(ValueError, match=message):
        Representation(**options)


@pytest.mark.parametrize(
    "spec", [FieldSpec(shape=(), dtype="int64", classes=("a", "b")), FieldSpec(shape=(2, 8, 8), dtype="uint8")], ids=str
)
def test_a_field_that_holds_no_picture_is_taken(spec):
    with pytest.raises(UserError, match="an image is uint8 of shape"):
        Representation().bind(spec)
