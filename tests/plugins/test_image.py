"""The image modality: what the files hold, what the model sees, what the user gets back."""

import math

import pytest
import torch
from PIL import Image as Picture
from torch.distributions import Independent, Laplace

from mtdiff_core import FeatureShapes, FieldSpec, UserError
from mtdiff_core.codecs import IdentityEncoder
from mtdiff_core.interfaces.codec import InvertibleEncoder
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from tests.grey_levels import EDGES, LEVELS, masses, normal, of_one_256th, one_pixel
from tests.slots import silent_slot


def image(channels=1, height=8, width=8, **options):
    return Image(**options).bind(FieldSpec(shape=(channels, height, width), dtype="uint8"))


def pixels(count=4, channels=1, size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=random, dtype=torch.uint8)


def all_greys():
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_model_values_span_minus_one_to_one():
    prepared = image(height=16, width=16).prepare(all_greys(), generator(0))
    assert prepared.dtype == torch.float32
    assert (prepared.min(), prepared.max()) == (-1, 1)
    assert prepared.flatten().diff().min() > 0, "two grey levels fall together"


def test_natural_values_are_the_pixels_over_255():
    modality = image(height=16, width=16)
    natural = modality.natural(modality.prepare(all_greys(), generator(0)))
    torch.testing.assert_close(natural, all_greys() / 255, atol=1e-6, rtol=0)


def test_natural_values_stay_in_their_range_where_the_model_overshoots():
    assert image().natural(torch.tensor([-1.7, 0.0, 3.0])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_drawn_is_what_was_in_the_file(channels):
    modality, stored = image(channels), pixels(channels=channels)
    drawn = modality.render(modality.prepare(stored, generator(0)))
    assert drawn.dtype == torch.uint8
    assert drawn.equal(stored.expand(-1, 3, -1, -1))


def test_the_encoder_is_one_to_one_and_ends_where_it_began():
    modality = image(3)
    encoder, values = modality.encoder(modality.anchor_shape()), torch.randn(2, 3, 8, 8)
    assert modality.one_to_one
    assert isinstance(encoder, InvertibleEncoder)
    assert encoder(values).shape[1:] == modality.anchor_shape()
    assert encoder.invert(encoder(values)).equal(values)


def test_the_expected_encoding_is_the_distribution_s_mean():
    distribution = torch.distributions.Normal(torch.randn(2, 1, 8, 8), 0.3)
    assert IdentityEncoder().expected(distribution).equal(distribution.mean)


def test_an_image_that_does_not_fit_the_space_is_refused_with_both_shapes():
    with pytest.raises(UserError, match=r"\(1, 8, 8\) does not fit.*\(3, 8, 8\)"):
        image(1).encoder((3, 8, 8))


def test_the_head_of_a_second_image_gives_one_likelihood_per_sample():
    features = FeatureShapes(map=(8, 8, 8), bottleneck=(16, 4, 4), pooled=24)
    head = image(3).decoder((3, 8, 8), features)
    distribution = head(type("Features", (), {"map": torch.randn(2, 8, 8, 8)}), silent_slot(2, (3, 8, 8)))
    assert distribution.batch_shape == (2,)
    assert distribution.event_shape == (3, 8, 8)
    assert distribution.log_prob(torch.zeros(2, 3, 8, 8)).isfinite().all()


# The likelihood of 8-bit grey levels

NORMALS = [
    (mean, std)
    for mean in (0.0, 0.3, -1.0, 1.0, -1.4, 40.0)
    for std in (1e-5, 1e-3, 0.02, 0.7, 50.0, 1e5)
]  # fmt: skip


def log_masses(mean, std, dtype=torch.float64):
    """What the modality says of all grey levels."""
    return image(height=1, width=1).log_likelihood(normal(mean, std, dtype), one_pixel(LEVELS))


@pytest.mark.parametrize(("mean", "std"), NORMALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probabilities_of_all_grey_levels_do_not_add_up_to_one(mean, std, dtype):
    found = log_masses(mean, std, dtype)
    assert found.isfinite().all()
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("mean", "std"), NORMALS)
def test_the_probability_of_a_grey_level_is_not_the_mass_of_its_bin(mean, std):
    found, expected = log_masses(mean, std), masses(mean, std)
    told = expected > 1e-290  # beyond, a difference of two numbers says nothing
    assert told.any()
    torch.testing.assert_close(found[told], expected[told].log(), rtol=1e-9, atol=1e-6)
    assert (found[~told] < math.log(1e-280)).all()


def test_a_grey_level_in_the_far_tail_is_impossible_or_likelier_than_it_is():
    for level, edge, mean in ((-1, EDGES[-1], -0.5), (0, EDGES[0], 0.5)):
        far = ((edge - mean).abs() / 1e-3).item()  # 1500 standard deviations
        tail = -(far**2) / 2 - math.log(far * math.sqrt(2 * math.pi))  # of Mills' ratio, right to 1 / far^2
        assert log_masses(mean, 1e-3)[level].item() == pytest.approx(tail, abs=1e-5)


def test_the_values_that_the_model_sees_are_off_the_grid_of_grey_levels():
    modality = image(height=16, width=16)
    seen = modality.prepare(all_greys(), generator(0)).double().flatten()
    found = image(height=1, width=1).log_likelihood(normal(0.1, 0.05), one_pixel(seen))
    torch.testing.assert_close(found, log_masses(0.1, 0.05), rtol=1e-5, atol=1e-5)


def test_a_picture_is_not_as_likely_as_all_its_pixels_together():
    stored = pixels(count=3, channels=3)
    values = image(3).prepare(stored, generator(0)).double()
    distribution = Independent(torch.distributions.Normal(torch.full_like(values, 0.2), 0.4), 3)
    levels = masses(0.2, 0.4).log()[stored.long()]
    found = image(3).log_likelihood(distribution, values)
    torch.testing.assert_close(found, levels.sum(dim=(1, 2, 3)), rtol=1e-5, atol=0)


def test_a_model_that_gives_every_grey_level_one_256th_pays_other_than_8_bits():
    bits = -log_masses(*of_one_256th()) / math.log(2)
    torch.testing.assert_close(bits, torch.full((256,), 8.0, dtype=torch.float64))


@pytest.mark.parametrize("std", [0.01, 0.3, 0.6, 1.0, 30.0])
def test_evenly_spread_grey_levels_cost_less_than_8_bits(std):
    assert -log_masses(0.0, std).mean() / math.log(2) > 8


def test_a_distribution_that_is_not_normal_is_taken_for_one():
    other = Independent(Laplace(torch.zeros(1, 1, 8, 8), 1.0), 3)
    with pytest.raises(TypeError, match="independent normal entries"):
        image().log_likelihood(other, torch.zeros(1, 1, 8, 8))


def test_without_flip_nothing_is_mirrored():
    modality = image()
    prepared = modality.prepare(pixels(), generator(0))
    assert modality.render(prepared)[:, :1].equal(pixels())


def training_values(modality, stored, stream="a"):
    """Model values as training sees them."""
    return modality.augment(modality.prepare(stored, generator(0)), generator(0, stream))


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others_alone():
    stored = pixels(count=400)
    prepared = training_values(image(flip=True), stored)
    plain = image().prepare(stored, generator(0))
    mirrored = (prepared == plain.flip(-1)).flatten(1).all(dim=1)
    untouched = (prepared == plain).flatten(1).all(dim=1)
    assert (mirrored ^ untouched).all()
    assert 150 < mirrored.sum() < 250  # 5 standard deviations of a fair coin


def test_flip_draws_from_its_generator_and_nothing_else():
    modality, stored = image(flip=True), pixels(count=64)
    torch.manual_seed(1)
    first = training_values(modality, stored, "a")
    torch.manual_seed(2)
    assert training_values(modality, stored, "a").equal(first)
    assert not training_values(modality, stored, "b").equal(first)


def with_dot(count, height, width, down, right):
    """Black images with one soft white dot, so far from the middle."""
    rows, columns = torch.arange(height)[:, None] - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    dot = torch.exp(-((rows - down) ** 2 + (columns - right) ** 2) / 2)
    return (255 * dot).round().byte().expand(count, 1, height, width)


def dots(images):
    """Where the dots are: pixels down and right of the middle, ``(B, 2)``."""
    ink = (images[:, 0] + 1) / 2
    rows, columns = (torch.arange(n) - (n - 1) / 2 for n in ink.shape[1:])
    total = ink.sum(dim=(1, 2))
    return torch.stack([(ink.sum(dim=2) @ rows) / total, (ink.sum(dim=1) @ columns) / total], dim=1)


def test_shift_moves_by_up_to_so_many_pixels_in_every_direction():
    moved = dots(training_values(image(height=21, width=31, shift=3), with_dot(300, 21, 31, 0, 0)))
    assert moved.abs().max() < 3.1
    assert (moved.min(dim=0).values < -2.7).all()
    assert (moved.max(dim=0).values > 2.7).all()


def test_rotate_turns_around_the_middle_without_stretching():
    moved = dots(training_values(image(height=21, width=31, rotate=180), with_dot(300, 21, 31, 0, 6)))
    torch.testing.assert_close(moved.norm(dim=1), torch.full((300,), 6.0), atol=0.2, rtol=0)
    angles = torch.atan2(moved[:, 0], moved[:, 1])
    assert angles.min() < -3 < 3 < angles.max()


def test_rotate_turns_by_up_to_so_many_degrees():
    moved = dots(training_values(image(height=31, width=21, rotate=10), with_dot(300, 31, 21, 9, 0)))
    angles = torch.atan2(moved[:, 1], moved[:, 0]).rad2deg()
    assert 9.5 < angles.abs().max() < 10.5
    assert angles.min() < -8 < 8 < angles.max()


def test_moved_images_have_no_gaps_at_their_borders():
    white = torch.full((50, 1, 8, 8), 255, dtype=torch.uint8)
    moved = training_values(image(rotate=45, shift=3), white)
    torch.testing.assert_close(moved, torch.ones(50, 1, 8, 8))


def test_moving_draws_from_its_generator_and_nothing_else():
    modality, stored = image(rotate=20, shift=2), pixels(count=8)
    torch.manual_seed(1)
    first = training_values(modality, stored, "a")
    torch.manual_seed(2)
    assert training_values(modality, stored, "a").equal(first)
    assert not training_values(modality, stored, "b").equal(first)


@pytest.mark.parametrize("options", [{"flip": True}, {"rotate": 20}, {"shift": 2}])
def test_what_is_held_out_or_given_is_augmented_too(options):
    stored = pixels(count=64)
    assert image(**options).prepare(stored, generator(0)).equal(image().prepare(stored, generator(0)))


def save(path, tensor):
    Picture.fromarray(tensor.permute(1, 2, 0).squeeze(-1).numpy()).save(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_given_file_is_read_as_one_model_value(tmp_path, channels):
    (stored,) = pixels(count=1, channels=channels)
    save(tmp_path / "one.png", stored)
    modality = image(channels)
    assert modality.parse(str(tmp_path / "one.png")).equal(modality.prepare(stored[None], generator(0)))


def test_a_given_folder_is_read_in_the_order_of_its_names(tmp_path):
    stored = pixels(count=3)
    for name, one in zip(("b", "c", "a"), stored, strict=True):
        save(tmp_path / f"{name}.png", one)
    (tmp_path / "notes.txt").write_text("no picture")
    modality = image()
    assert modality.parse(str(tmp_path)).equal(modality.prepare(stored[[2, 0, 1]], generator(0)))


def test_a_given_picture_of_another_size_is_made_to_fit(tmp_path):
    save(tmp_path / "large.png", pixels(count=1, channels=3, size=20)[0])
    assert image(1).parse(str(tmp_path / "large.png")).shape == (1, 1, 8, 8)


def test_a_given_file_that_is_not_there_is_reported_with_what_can_be_given(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png: no such file or folder\n.*PNG, JPEG, WebP"):
        image().parse(str(tmp_path / "nowhere.png"))


@pytest.mark.parametrize("text", ["", "~nobody-of-that-name/photo.png", "a" * 5000])
def test_a_text_that_can_be_no_path_is_taken_for_this_folder_or_ends_in_a_traceback(tmp_path, monkeypatch, text):
    save(tmp_path / "here.png", pixels(count=1)[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        image().parse(text)


def test_a_given_folder_without_pictures_is_reported(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        image().parse(str(tmp_path))


def test_a_given_file_that_is_no_picture_is_reported_with_what_is_expected(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png: is no picture\n.*expected PNG, JPEG or WebP"):
        image().parse(str(tmp_path / "text.png"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_given_file_that_was_cut_short_is_reported(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    save(path, pixels(count=1, channels=3, size=64)[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: cannot be read as a picture \(.+\)\n.*expected PNG"):
        image().parse(str(path))


def test_a_given_file_that_would_fill_the_memory_ends_in_a_traceback(tmp_path, monkeypatch):
    save(tmp_path / "huge.png", pixels(count=1)[0])
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"huge\.png: cannot be read as a picture \(Image size \(64 pixels\) exceeds"):
        image().parse(str(tmp_path / "huge.png"))


@pytest.mark.parametrize(
    "spec",
    [
        FieldSpec(shape=(2, 8, 8), dtype="uint8"),
        FieldSpec(shape=(8, 8), dtype="uint8"),
        FieldSpec(shape=(1, 8, 8), dtype="float32"),
        FieldSpec(shape=(), dtype="int64", classes=("a", "b")),
    ],
    ids=str,
)
def test_a_field_that_holds_no_picture_is_refused(spec):
    with pytest.raises(UserError, match="an image is uint8 of shape"):
        Image().bind(spec)
