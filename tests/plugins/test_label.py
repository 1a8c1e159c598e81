"""The label modality: its codes, its head, and how it is read and described."""

import math

import pytest
import torch
from torch.distributions import Categorical

from mtdiff_core import Features, FeatureShapes, FieldSpec, UserError
from mtdiff_core.randomness import generator
from mtdiff_label import Label
from tests.slots import noisy_slot, silent_slot

ANIMALS = ("ant", "bee", "cat", "dog")
SLOT = (1, 4, 4)
# The first pixels of the first three codes in a slot of 8x8.
CODES = torch.tensor(
    [
        [-1.2343, 0.4013, -0.8271, 0.6371],
        [-1.2110, -0.3057, 0.9402, -0.8088],
        [0.0239, -0.0334, -1.5940, -0.6856],
    ]
)


def label(*classes, **options):
    return Label(**options).bind(FieldSpec(shape=(), dtype="int64", classes=classes or ANIMALS))


def test_a_class_whose_name_holds_a_comma_cannot_be_given():
    named = label("salt, fine", "fine", "salt")
    assert named.parse("salt, fine").tolist() == [0]
    assert named.parse("fine, salt").tolist() == [1, 2]


def encoder(count=4, slot=SLOT, **options):
    return label(*(f"class {i}" for i in range(count)), **options).encoder(slot)


def codes(count=4, slot=SLOT, **options):
    return encoder(count, slot, **options)(torch.arange(count))


@pytest.mark.parametrize(("count", "slot"), [(4, SLOT), (16, SLOT), (10, (3, 8, 4)), (40, SLOT), (1000, (1, 8, 8))])
def test_every_code_has_unit_rms_even_where_classes_outnumber_dimensions(count, slot):
    made = codes(count, slot)
    assert made.shape == (count, *slot)
    torch.testing.assert_close(made.square().mean(dim=(1, 2, 3)), torch.ones(count))


@pytest.mark.parametrize("count", [2, 10, 16])
def test_codes_are_orthogonal_up_to_the_number_of_dimensions(count):
    flat = codes(count).flatten(1)
    torch.testing.assert_close(flat @ flat.T / flat.shape[1], torch.eye(count), atol=1e-6, rtol=0)


@pytest.mark.parametrize("slot", [(1, 16, 16), (3, 8, 8)])
def test_a_coarse_picture_looks_like_a_code(slot):
    made = codes(10, slot)
    y, x = torch.meshgrid(torch.arange(slot[1]), torch.arange(slot[2]), indexing="ij")
    for down, right in [(0, 0), (1, 0), (0, -1), (1, 1), (slot[1] // 4 - 1, slot[2] // 4 - 1)]:
        wave = torch.cos(2 * math.pi * (down * y / slot[1] + right * x / slot[2]) + 0.3)
        assert (made * wave).mean(dim=(1, 2, 3)).abs().max() < 1e-5
    finer = torch.cos(2 * math.pi * (y / 4 + x / 4))
    assert (made * finer).mean(dim=(1, 2, 3)).abs().max() > 1e-2, "codes leave out more than they say"


def test_white_codes_are_not_orthogonal_or_leave_out_what_is_coarse():
    made = codes(10, (1, 16, 16), codes="white")
    flat = made.flatten(1)
    torch.testing.assert_close(flat @ flat.T / flat.shape[1], torch.eye(10), atol=1e-5, rtol=0)
    coarse = torch.nn.functional.avg_pool2d(made, 4).square().mean()  # white noise of 16 pixels: 1/16
    assert 0.03 < coarse < 0.12


def test_many_codes_have_an_average_though_there_is_room():
    assert codes(56, (1, 8, 8)).mean(dim=(1, 2, 3)).abs().max() < 1e-6


def test_no_two_of_many_classes_share_a_code():
    flat = codes(40).flatten(1)
    overlap = (flat @ flat.T / flat.shape[1]).abs() - torch.eye(40)
    assert overlap.max() < 0.9


def test_codes_are_the_same_in_every_process_and_on_every_machine():
    # Written down once: a change here makes the labels of every trained model unreadable.
    torch.testing.assert_close(codes(3, (1, 8, 8))[:, 0, 0, :4], CODES, atol=1e-4, rtol=0)


def test_another_code_seed_gives_other_codes():
    assert not codes(4, code_seed=1).allclose(codes(4, code_seed=0))


def test_codes_travel_with_the_model_s_weights():
    assert set(encoder().state_dict()) == {"codes"}
    assert not list(encoder().parameters())


def test_a_certain_distribution_is_encoded_as_the_value_s_own_code():
    book = encoder()
    for value in range(4):
        certain = Categorical(probs=torch.eye(4)[value][None])
        torch.testing.assert_close(book.expected(certain), book(torch.tensor([value])))


def test_the_expected_code_is_the_probability_weighted_sum():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = encoder().expected(Categorical(logits=logits))
    by_hand = sum(p[:, None, None, None] * code for p, code in zip(logits.softmax(1).T, codes(), strict=True))
    torch.testing.assert_close(expected, by_hand)


def test_an_undecided_distribution_has_a_small_code():
    undecided = Categorical(probs=torch.full((1, 4), 0.25))
    assert math.isclose(encoder().expected(undecided).square().mean(), 1 / 4, rel_tol=1e-4)  # orthogonal: 4 (1/4)^2


def head():
    return label().decoder(SLOT, FeatureShapes(map=(8, 4, 4), bottleneck=(16, 2, 2), pooled=24)).eval()


def test_the_head_gives_normalised_probabilities_per_sample():
    features = Features(map=torch.randn(3, 8, 4, 4), bottleneck=torch.randn(3, 16, 2, 2), pooled=torch.randn(3, 24))
    distribution = head()(features, silent_slot(3, SLOT))
    assert distribution.batch_shape == (3,)
    log_probabilities = torch.stack([distribution.log_prob(torch.full((3,), k)) for k in range(4)])
    torch.testing.assert_close(log_probabilities.exp().sum(dim=0), torch.ones(3))


def noisy_codes(signal, sigma):
    torch.manual_seed(0)
    return signal * codes() + sigma * torch.randn(4, *SLOT)


def some_features(feature_map):
    count = len(feature_map)
    return Features(map=feature_map, bottleneck=torch.zeros(count, 16, 2, 2), pooled=torch.randn(count, 24))


@pytest.mark.parametrize("prior", [None, [0.1, 0.2, 0.3, 0.4]], ids=["even", "uneven"])
def test_where_nothing_else_is_seen_the_head_misses_the_posterior_of_a_code_in_noise(prior):
    reader, signal, sigma = head(), 0.5, 2.0
    z = noisy_codes(signal, sigma)
    likelihood = torch.stack([-(z - signal * code).square().sum((1, 2, 3)) / (2 * sigma**2) for code in codes()], dim=1)
    if prior:
        likelihood = likelihood + torch.tensor(prior).log()
        counts = (100_000 * torch.tensor(prior)).round().long()
        values = torch.cat([torch.arange(4).repeat_interleave(counts), torch.zeros(50_000, dtype=torch.int64)])
        # those at the end are fillers of samples that have no label
        reader.record(values, torch.arange(len(values)) < 100_000)
    found = reader(some_features(torch.randn(4, 8, 4, 4)), noisy_slot(z, signal, sigma**2, clarity=0.0))
    torch.testing.assert_close(found.probs, likelihood.softmax(dim=1), atol=1e-4, rtol=1e-3)


def test_what_others_add_to_the_code_cannot_be_taken_off():
    # The map holds the other modality's part of z exactly: a linear map of it undoes what the filter sees of it.
    reader, signal, sigma = head(), 0.5, 1.0
    torch.nn.init.zeros_(reader.layers[-1].weight)
    torch.nn.init.zeros_(reader.layers[-1].bias)
    alone, other = noisy_codes(signal, sigma), 3 * torch.randn(4, *SLOT)
    with torch.no_grad():
        reader.to_slot.weight[0, 0] = -(math.prod(SLOT) ** 0.5) * signal / sigma**2
    clean = reader(some_features(torch.zeros(4, 8, 4, 4)), noisy_slot(alone, signal, sigma**2))
    found = reader(some_features(other.repeat(1, 8, 1, 1)), noisy_slot(alone + other, signal, sigma**2))
    torch.testing.assert_close(found.probs, clean.probs, atol=1e-5, rtol=1e-4)


def test_names_indices_and_lists_of_both_are_read():
    assert label().parse("cat").tolist() == [2]
    assert label().parse("3").tolist() == [3]
    assert label().parse("ant,3, bee").tolist() == [0, 3, 1]


def test_a_name_that_looks_like_a_number_is_taken_as_a_name():
    assert label("1", "0").parse("1,0").tolist() == [0, 1]


@pytest.mark.parametrize("text", ["horse", "4", "-1", "cat,", "1.5", ""])
def test_what_names_no_class_is_refused_with_the_classes_there_are(text):
    with pytest.raises(UserError, match=r"no class is called .*\n.*ant, bee, cat, dog.*0 to 3"):
        label().parse(text)


@pytest.mark.parametrize("value", [-1, 4])
def test_a_class_outside_the_data_s_own_is_refused(value):
    with pytest.raises(UserError, match=f"label {value} is outside the range 0 to 3"):
        label().prepare(torch.tensor([0, value]), generator(0))


def test_class_indices_pass_unchanged_both_ways():
    values = torch.tensor([3, 0, 2])
    assert label().natural(label().prepare(values, generator(0))).equal(values)


def test_given_labels_are_described_by_name_alone():
    assert label().describe(torch.tensor([0, 3])) == ["ant", "dog"]


def test_decoded_labels_are_described_with_the_probability_of_that_very_class():
    probabilities = Categorical(probs=torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.97, 0.01, 0.01, 0.01]]))
    assert label().describe(torch.tensor([2, 0]), probabilities) == ["cat (30%)", "ant (97%)"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (FieldSpec(shape=(1,), dtype="int64", classes=ANIMALS), "a label is an integer class"),
        (FieldSpec(shape=(), dtype="uint8", classes=ANIMALS), "a label is an integer class"),
        (FieldSpec(shape=(), dtype="int64"), "a label is an integer class"),
        (FieldSpec(shape=(), dtype="int64", classes=("ant",)), "at least two classes"),
    ],
)
def test_a_field_that_holds_no_label_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        Label().bind(spec)
