"""The masked image: its masks, what the model sees of a picture and what not, its distribution, what a user writes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from mtdiff_core import FeatureShapes, FieldSpec, UserError
from mtdiff_core.diffusion.model import is_discrete
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from mtdiff_mask import MaskedImage, masks
from mtdiff_mask.masked_codec import MaskedGaussian, VisiblePart
from mtdiff_mask.masked_image import KINDS, SIDES
from tests.grey_levels import LEVELS, masses, of_one_256th, one_pixel
from tests.slots import silent_slot

FEATURES = FeatureShapes(map=(8, 8, 8), bottleneck=(16, 4, 4), pooled=24)


def masked(channels=1, height=8, width=8, **options):
    return MaskedImage(**options).bind(FieldSpec(shape=(channels, height, width), dtype="uint8"))


def image(channels=1, height=8, width=8, **options):
    return Image(**options).bind(FieldSpec(shape=(channels, height, width), dtype="uint8"))


def pixels(count=4, channels=1, height=8, width=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=random, dtype=torch.uint8)


def drawn_masks(kind, count=200, height=16, width=12, stream="a", **options):
    """Masks as training draws them, bool ``(count, 1, H, W)``."""
    modality = masked(1, height, width, kinds=(kind,), **options)
    return modality.prepare(pixels(count, 1, height, width), generator(0, stream))[:, -1:] > 0.5


def hidden_shares(visible):
    return 1 - visible.float().mean(dim=(1, 2, 3))


# Masks


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("patches", 0.1, 1), ("half", 0.5, 0.5), ("strokes", 0.01, 0.95), ("complete", 1, 1)]
)
def test_a_kind_of_mask_hides_more_or_less_than_it_may(kind, low, high):
    shares = hidden_shares(drawn_masks(kind))
    assert low - 0.05 <= shares.min()  # patches are whole: 12 of them, so up to 1/24 is rounded away
    assert shares.max() <= high


def test_strokes_hide_almost_nothing_or_almost_everything_on_average():
    assert 0.1 < hidden_shares(drawn_masks("strokes")).mean() < 0.6


def test_strokes_are_thinner_shares_of_larger_pictures():
    small, large = (hidden_shares(drawn_masks("strokes", 100, size, size)).mean() for size in (32, 96))
    assert large / small == pytest.approx(1, abs=0.25)


def test_strokes_creep_along_the_border_or_never_reach_it():
    hidden = 1 - drawn_masks("strokes", 600, 32, 32).float().mean(dim=(0, 1))
    border = torch.cat([hidden[[0, -1]].flatten(), hidden[:, [0, -1]].flatten()]).mean()
    assert 0.3 < border / hidden[8:-8, 8:-8].mean() < 0.8


@pytest.mark.parametrize("kind", ["patches", "half", "strokes"])
def test_masks_are_drawn_from_anything_but_the_generator(kind):
    torch.manual_seed(1)
    first = drawn_masks(kind)
    torch.manual_seed(2)
    assert drawn_masks(kind).equal(first)
    assert not drawn_masks(kind, stream="b").equal(first)


@pytest.mark.parametrize("kind", ["patches", "half", "strokes"])
def test_all_samples_of_a_batch_share_a_mask(kind):
    assert len({tuple(mask.flatten().tolist()) for mask in drawn_masks(kind)}) >= 4


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.5), (0.75, 0.75), (0.0, 0.0)])
def test_the_shares_of_hidden_patches_leave_their_range_or_do_not_fill_it(low, high):
    shares = hidden_shares(drawn_masks("patches", 400, 32, 32, ratio_min=low, ratio_max=high))
    whole = 1 / 64
    assert low - whole / 2 <= shares.min() <= low + whole
    assert high - whole <= shares.max() <= high + whole / 2


@settings(max_examples=30)
@given(
    share=st.floats(0, 1), patch=st.integers(1, 9), size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_patch_is_hidden_in_part_or_too_many_are(share, patch, size, seed):
    (visible,) = masks.patches(torch.tensor([share]), size, patch, torch.Generator().manual_seed(seed))
    assert visible.shape == (1, *size)
    squares = [square for row in visible[0].split(patch, dim=0) for square in row.split(patch, dim=1)]
    assert all(square.all() or not square.any() for square in squares)
    hidden = sum(not square.any() for square in squares)
    assert abs(hidden - share * len(squares)) <= 0.5 + 1e-4


def test_a_patch_is_hidden_more_often_than_another():
    hidden = 1 - drawn_masks("patches", 2000, 16, 16, ratio_min=0.5, ratio_max=0.5).float().mean(dim=0)
    assert (hidden - 0.5).abs().max() < 0.06  # 5 standard deviations


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_a_half_is_another_than_its_name_says(height, width):
    index = torch.arange(height * width).reshape(height, width)
    left, top = index % width < width // 2, index // width < height // 2
    hidden = [~masks.half(side, (height, width))[0, 0] for side in SIDES]
    for mask, expected in zip(hidden, (left, ~left, top, ~top), strict=True):
        assert mask.equal(expected)


def test_one_of_the_four_halves_is_drawn_less_often():
    rows = [tuple(mask.flatten().tolist()) for mask in drawn_masks("half", 800)]
    assert sorted(rows.count(row) for row in set(rows))[0] > 150
    assert len(set(rows)) == 4


def test_a_stroke_is_made_of_scattered_dots():
    for (visible,) in drawn_masks("strokes", 50, 32, 32):
        hidden = ~visible
        beside = torch.zeros_like(hidden)
        beside[1:] |= hidden[:-1]
        beside[:-1] |= hidden[1:]
        beside[:, 1:] |= hidden[:, :-1]
        beside[:, :-1] |= hidden[:, 1:]
        assert (hidden & beside).sum() > 0.9 * hidden.sum()


def kinds_of(visible):
    """Which of complete, half or neither each mask is."""
    shares = hidden_shares(visible)
    return ["complete" if share == 1 else "half" if share == 0.5 else "other" for share in shares.tolist()]


def test_kinds_are_drawn_by_other_weights_than_were_asked_for():
    modality = masked(kinds=("half", "strokes", "complete"), kind_weights=(3.0, 0.0, 1.0))
    found = kinds_of(modality.prepare(pixels(800), generator(0))[:, -1:])
    assert found.count("other") == 0
    assert 530 < found.count("half") < 670  # 600, 5 standard deviations


def test_without_weights_a_kind_is_left_out():
    modality = masked(kinds=("half", "complete"))
    found = kinds_of(modality.prepare(pixels(400), generator(0))[:, -1:])
    assert 150 < found.count("half") < 250


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ()}, "kinds must name at least one of patches, half"),
        ({"kinds": ("half", "circle")}, "must be one of 'patches'"),
        ({"kinds": ("half",), "kind_weights": (1.0, 2.0)}, "kind_weights needs one number for each of kinds, 1"),
        ({"kind_weights": (0.0,) * 4}, "must not all be 0"),
        ({"kind_weights": (1.0, 1.0, 1.0, -1.0)}, "at least 0"),
        ({"ratio_min": 0.5, "ratio_max": 0.25}, r"ratio_min 0\.5 is above ratio_max 0\.25"),
    ],
)
def test_options_that_contradict_each_other_are_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedImage(**options)


# What the model sees


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_visible_pixel_is_changed_or_a_hidden_one_kept(channels, kind):
    stored = pixels(channels=channels)
    values = masked(channels, kinds=(kind,)).prepare(stored, generator(0))
    plain = image(channels).prepare(stored, generator(0))
    visible = values[:, -1:].bool()
    assert values.shape == (4, channels + 1, 8, 8)
    assert values.dtype == torch.float32
    assert values[:, :-1].equal(torch.where(visible, plain, 0))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), options=st.sampled_from([{}, {"flip": True}]))
def test_hidden_pixels_leak_into_the_encoding(seed, kind, options):
    modality, stored = masked(kinds=(kind,), **options), pixels(seed=seed)
    visible = masked(kinds=(kind,)).prepare(stored, generator(seed))[:, -1:] > 0.5
    other = torch.where(visible, stored, 255 - stored)  # the same where visible, another where not
    encoder = modality.encoder((1, 8, 8))

    def encoded(values):
        prepared = modality.augment(modality.prepare(values, generator(seed)), generator(seed, "augment"))
        return encoder(prepared)

    assert encoded(other).equal(encoded(stored))


def test_the_encoding_trusts_that_hidden_pixels_are_zero():
    values = torch.cat([torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)], dim=1)
    assert VisiblePart()(values).equal(torch.zeros(1, 3, 4, 4))


def test_a_visible_pixel_is_encoded_otherwise_than_the_picture_s_own():
    modality, stored = masked(3), pixels(channels=3)
    values = modality.prepare(stored, generator(0))
    encoder = modality.encoder((3, 8, 8))
    own, revealed = image(3).encoder((3, 8, 8))(image(3).prepare(stored, generator(0))), encoder.reveals(values)
    assert revealed.dtype == torch.bool
    assert revealed.equal(values[:, -1:] == 1)
    assert encoder(values).equal(torch.where(revealed, own, 0))


@pytest.mark.parametrize("options", [{"flip": True}, {"flip": True, "rotate": 25.0, "shift": 2.0}])
def test_training_changes_the_visible_part_otherwise_than_the_picture(options):
    stored = pixels(64, 1, 16, 16)
    partly = masked(1, 16, 16, kinds=("half", "strokes"), **options)
    whole = image(1, 16, 16, **options)
    values = partly.augment(partly.prepare(stored, generator(0)), generator(0, "augment"))
    plain = whole.augment(whole.prepare(stored, generator(1)), generator(0, "augment"))
    visible = values[:, -1:]
    assert ((visible == 0) | (visible == 1)).all()
    assert 0.2 < visible.mean() < 0.9
    torch.testing.assert_close(values[:, :-1], plain * visible, atol=1e-4, rtol=0)


@pytest.mark.parametrize("slot", [(3, 8, 8), (1, 4, 8)])
def test_a_slot_of_another_shape_is_accepted(slot):
    with pytest.raises(UserError, match=r"\(1, 8, 8\) does not fit"):
        masked(1).encoder(slot)


def test_it_takes_more_channels_than_the_picture_or_passes_for_one_to_one():
    assert masked(3).block_channels() == 3
    assert not masked().one_to_one


# The distribution


def distribution(batch=2, channels=2, size=3, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 1, size, size, generator=random, dtype=dtype)
    loc = torch.randn(batch, channels, size, size, generator=random, dtype=dtype)
    return MaskedGaussian(logits, loc, torch.tensor(-0.7, dtype=dtype))


def test_the_density_differs_from_the_sum_written_out_by_hand():
    found = distribution()
    values = distribution(seed=1).sample()
    expected = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for y in range(3):
            for x in range(3):
                p = 1 / (1 + math.exp(-found.logits[b, 0, y, x]))
                if values[b, -1, y, x] == 0:
                    expected[b] += math.log(1 - p)
                    continue
                expected[b] += math.log(p)
                for c in range(2):
                    residual = (values[b, c, y, x] - found.loc[b, c, y, x]) / math.exp(-0.7)
                    expected[b] += -(residual**2) / 2 + 0.7 - math.log(2 * math.pi) / 2
    torch.testing.assert_close(found.log_prob(values), expected)


def test_the_density_of_a_pixel_does_not_integrate_to_one():
    found = distribution(batch=1, channels=1, size=1)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    visible = torch.stack([grid, torch.ones_like(grid)], dim=1)[:, :, None, None]
    hidden = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    total = torch.trapezoid(found.log_prob(visible).exp(), grid) + found.log_prob(hidden).exp()
    assert total.item() == pytest.approx(1, abs=1e-9)


def grey_levels(logits, mean, std):
    """A distribution of one pixel for each grey level, and the levels as visible pixels, ``(256, 2, 1, 1)``."""
    visible = torch.cat([one_pixel(LEVELS), torch.ones(256, 1, 1, 1, dtype=torch.float64)], dim=1)
    said = (torch.as_tensor(x, dtype=torch.float64).expand(256) for x in (logits, mean, std))
    logits, mean, std = (one_pixel(x) for x in said)
    return MaskedGaussian(logits, mean, std.log()), visible


@pytest.mark.parametrize("logits", [-3.0, 0.5])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-4), (0.3, 0.02), (-1.3, 0.7), (5.0, 0.05), (1.0, 100.0)])
def test_the_probabilities_of_all_that_a_pixel_can_be_do_not_add_up_to_one(logits, mean, std):
    distribution, visible = grey_levels(logits, mean, std)
    found = masked(height=1, width=1).log_likelihood(distribution, visible)
    hidden = masked(height=1, width=1).log_likelihood(distribution, torch.zeros_like(visible))[0]
    assert found.isfinite().all()
    assert (found.exp().sum() + hidden.exp()).item() == pytest.approx(1, abs=1e-10)
    share = torch.tensor(logits, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(found.exp(), share * masses(mean, std))


def test_a_hidden_pixel_is_paid_for_or_8_bits_of_a_visible_one_are_not():
    distribution, visible = grey_levels(60.0, *of_one_256th())  # surely visible
    bits = -masked(height=1, width=1).log_likelihood(distribution, visible) / math.log(2)
    torch.testing.assert_close(bits, torch.full((256,), 8.0, dtype=torch.float64))
    distribution, visible = grey_levels(-60.0, *of_one_256th())  # surely hidden
    bits = masked(height=1, width=1).log_likelihood(distribution, torch.zeros_like(visible))
    torch.testing.assert_close(bits, torch.zeros(256, dtype=torch.float64))


def test_the_mean_differs_from_the_average_of_draws():
    found = distribution(batch=1)
    torch.manual_seed(0)
    draws = found.sample((20_000,))
    assert draws.shape == (20_000, 1, 3, 3, 3)
    assert (draws.mean(dim=0) - found.mean).abs().max() < 5 * (3 / 20_000) ** 0.5
    assert found.log_prob(draws).shape == (20_000, 1)


def test_the_expected_encoding_differs_from_the_average_encoding_of_draws():
    found, encoder = distribution(batch=1), VisiblePart()
    torch.manual_seed(0)
    average = torch.stack([encoder(found.sample()) for _ in range(4000)]).mean(dim=0)
    assert (average - encoder.expected(found)).abs().max() < 5 * (3 / 4000) ** 0.5


def test_a_certain_distribution_is_encoded_otherwise_than_its_value():
    values = distribution(seed=3).sample()
    certain = MaskedGaussian(1e4 * (values[:, -1:] - 0.5), values[:, :-1], torch.tensor(-9.0))
    assert VisiblePart().expected(certain).equal(VisiblePart()(values))


def test_a_draw_has_pixels_where_it_is_hidden_or_a_mask_between():
    torch.manual_seed(0)
    draws = distribution(batch=50).sample()
    pixels_, mask = draws[:, :-1], draws[:, -1:]
    assert set(mask.unique().tolist()) == {0, 1}
    assert (pixels_[(mask == 0).expand_as(pixels_)] == 0).all()
    assert (pixels_[(mask == 1).expand_as(pixels_)] != 0).all()


def test_the_mode_is_not_the_likelier_mask_with_its_likeliest_pixels():
    found = distribution(batch=50, channels=1, size=1)
    pixel, mask = found.mode[:, 0, 0, 0], found.mode[:, 1, 0, 0]
    assert mask.equal((found.mean[:, 1, 0, 0] > 0.5).double())
    assert pixel.equal(mask * found.loc[:, 0, 0, 0])
    assert 5 < mask.sum() < 45


def test_it_counts_as_discrete_and_so_would_be_drawn_per_pixel():
    assert not is_discrete(distribution())


def test_the_head_gives_no_density_of_the_value_s_shape():
    head = masked(3).decoder((3, 8, 8), FEATURES)
    found = head(type("Features", (), {"map": torch.randn(2, 8, 8, 8)}), silent_slot(2, (3, 8, 8)))
    values = masked(3).prepare(pixels(2, 3), generator(0))
    assert (found.batch_shape, found.event_shape) == ((2,), (4, 8, 8))
    assert found.mode.shape == found.mean.shape == values.shape
    found.log_prob(values).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in head.parameters())


def test_a_hidden_pixel_teaches_the_head_what_it_looks_like():
    loc = torch.zeros(1, 1, 4, 4, requires_grad=True)
    values = torch.zeros(1, 2, 4, 4)
    values[0, :, 1, 2] = 1
    MaskedGaussian(torch.zeros(1, 1, 4, 4), loc, torch.zeros(())).log_prob(values).sum().backward()
    assert loc.grad.nonzero().tolist() == [[0, 0, 1, 2]]


# What a user reads and writes


def test_natural_values_leave_zero_to_one_or_show_what_is_hidden():
    values = torch.tensor([[-1.7, 0.0], [3.0, 0.5]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    natural = masked().natural(torch.stack([values, mask])[None])
    assert natural.equal(torch.tensor([[[[0, 0.5], [1, 0]], [[1, 1], [1, 0]]]]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hidden_pixel_is_drawn_like_a_visible_one(channels):
    modality, stored = masked(channels, kinds=("half",)), pixels(channels=channels)
    values = modality.prepare(stored, generator(0))
    drawn, visible = modality.render(values), (values[:, -1:] == 1).expand(-1, 3, -1, -1)
    assert drawn.dtype == torch.uint8
    assert drawn[visible].equal(stored.expand(-1, 3, -1, -1)[visible])
    assert drawn[~visible].unique().tolist() == [96, 144]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A picture of the model's size; gives its pixels."""
    monkeypatch.chdir(tmp_path)
    (stored,) = pixels(1)
    Picture.fromarray(stored[0].numpy()).save("photo.png")
    return stored[0]


def save_mask(path, visible):
    Picture.fromarray((visible * 255).to(torch.uint8).numpy()).save(path)


def parsed(text, **options):
    """A parsed mask, after checking that the pixels are the picture's."""
    return masked(**options).parse(text)[:, -1] == 1


@pytest.mark.parametrize("text", ["patches", "half", "strokes", "complete", "left", "0.5", "0", "1"])
def test_a_named_mask_is_not_read_or_another_at_every_time(photo, text):
    values = masked().parse(f"photo.png:{text}")
    torch.manual_seed(5)
    assert masked().parse(f"photo.png:{text}").equal(values)
    assert values.shape == (1, 2, 8, 8)
    whole = image().prepare(photo[None, None], generator(0))
    assert values[:, :1].equal(whole * values[:, 1:])


@pytest.mark.parametrize("side", SIDES)
def test_a_given_side_hides_another_half(photo, side):
    assert parsed(f"photo.png:{side}").equal(masks.half(side, (8, 8))[0])


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_a_given_share_hides_more_or_fewer_patches(photo, share):
    assert parsed(f"photo.png:{share}", patch=2).float().mean() == 1 - share


def test_a_kind_that_is_not_trained_cannot_be_given(photo):
    assert not parsed("photo.png:complete", kinds=("half",)).any()


def test_pictures_of_a_folder_share_a_random_mask(tmp_path):
    for i, stored in enumerate(pixels(3)):
        Picture.fromarray(stored[0].numpy()).save(tmp_path / f"{i}.png")
    visible = parsed(f"{tmp_path}:0.5", patch=1)
    assert visible.shape == (3, 8, 8)
    assert not visible[0].equal(visible[1])


def test_white_of_a_mask_file_is_hidden(photo):
    visible = torch.arange(64).reshape(8, 8) % 3 > 0
    save_mask("mask.png", visible)
    assert parsed("photo.png:mask.png")[0].equal(visible)


def test_a_mask_of_the_picture_s_own_size_is_cropped_otherwise_than_the_picture(tmp_path):
    visible = torch.zeros(16, 32, dtype=torch.bool)  # covers 8x16, and the middle 8x8 is kept
    visible[:, :12] = True
    picture = torch.where(visible, 200, 100).byte()
    Picture.fromarray(picture.numpy()).save(tmp_path / "wide.png")
    save_mask(tmp_path / "mask.png", visible)
    values = masked().parse(f"{tmp_path}/wide.png:{tmp_path}/mask.png")
    found = values[0, 1] == 1
    assert found[:, :2].all()
    assert not found[:, 2:].any()
    torch.testing.assert_close(values[0, 0][:, 0], torch.full((8,), 200 / 127.5 - 1), atol=0.02, rtol=0)


def test_one_mask_cannot_be_given_for_a_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, stored in enumerate(pixels(3)):
        Picture.fromarray(stored[0].numpy()).save(tmp_path / "photos" / f"{i}.png")
    save_mask(tmp_path / "mask.png", masks.half("top", (8, 8))[0, 0])
    assert parsed(f"{tmp_path}/photos:{tmp_path}/mask.png").equal(masks.half("top", (8, 8))[0].expand(3, 8, 8))


def test_a_path_with_colons_is_cut_at_the_wrong_one(photo):
    Picture.open("photo.png").save("12:30 half.png")
    assert parsed("12:30 half.png:left").equal(masks.half("left", (8, 8))[0])
    save_mask("m:1.png", masks.half("top", (8, 8))[0, 0])
    with pytest.raises(UserError, match="is no mask"):
        parsed("photo.png:m:1.png")  # the last colon is the one inside the mask's name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo.png", r"'photo\.png' names no mask\n.*expected PICTURE:MASK(.|\n)*patches, half, strokes, complete"),
        (":half", "':half' names no mask"),
        ("photo.png:", "'' is no mask"),
        ("photo.png:circle", r"'circle' is no mask, and no file that holds one\n.*PICTURE:MASK"),
        ("photo.png:nowhere.png", r"'nowhere\.png' is no mask, and no file that holds one"),
        ("photo.png:1.5", r"hidden is 1\.5\n.*from 0 to 1"),
        ("photo.png:-0.1", r"hidden is -0\.1\n.*from 0 to 1"),
        ("photo.png:nan", r"hidden is nan\n.*from 0 to 1"),
        ("nowhere.png:half", r"nowhere\.png: no such file or folder\n"),
        (
            "photo.png:large.png",
            r"large\.png: the mask has 20x10 pixels, and what it is for has 8x8\n.*model's own, 8x8",
        ),
        ("photo.png:text.png", r"text\.png: is no picture"),
        ("empty:half", "empty: holds no pictures"),
    ],
)
def test_a_text_that_names_no_picture_and_mask_is_accepted(photo, tmp_path, text, message):
    save_mask("large.png", torch.ones(10, 20))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        masked().parse(text)
