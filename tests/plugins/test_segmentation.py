"""The segmentation: its codes, its head and distribution, class maps as files, and how they are shown."""

import math

import pytest
import torch
from PIL import Image as Picture
from torch.distributions import Categorical

from mtdiff_core import FeatureShapes, FieldSpec, UserError
from mtdiff_core.diffusion.model import is_discrete
from mtdiff_core.diffusion.objective import negative_log_likelihood
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from mtdiff_mask import Segmentation
from mtdiff_mask.files import read_class_map, write_indexed_png
from mtdiff_mask.palette import voc_colour
from mtdiff_mask.segmentation_codec import ClassMap, ClassMapHead, class_codes
from tests.slots import noisy_slot, silent_slot

THREE = ("ground", "grey", "white")
FEATURES = FeatureShapes(map=(8, 6, 6), bottleneck=(16, 3, 3), pooled=24)


def segmentation(classes=THREE, shape=(6, 6), dtype="uint8", **options):
    return Segmentation(**options).bind(FieldSpec(shape=shape, dtype=dtype, classes=classes))


def class_map(count=2, classes=3, height=6, width=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (count, height, width), generator=random, dtype=torch.uint8)


# Codes


@pytest.mark.parametrize("channels", [1, 2, 3, 16])
@pytest.mark.parametrize("classes", [2, 3, 19, 150])
def test_the_codes_together_have_another_rms_than_one(classes, channels):
    codes = class_codes(classes, channels, seed=0)
    assert codes.shape == (classes, channels)
    assert codes.square().mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7, 150])
def test_levels_of_one_channel_are_unevenly_apart(classes):
    gaps = class_codes(classes, 1, seed=0)[:, 0].sort().values.diff()
    # Evenly spaced from -r to r, the mean square is r^2 (K + 1) / 3 (K - 1).
    expected = 2 / (classes - 1) / math.sqrt((classes + 1) / (3 * (classes - 1)))
    torch.testing.assert_close(gaps, torch.full_like(gaps, expected))


# Best known smallest angles: regular simplices, the octahedron, the icosahedron, a regular polygon, and the solutions
# of the Tammes problem for 8, 24 and 32 points (Sloane's tables of spherical codes).
@pytest.mark.parametrize(
    ("classes", "channels", "best"),
    [
        (2, 3, 180), (4, 3, 109.471), (5, 4, 104.478), (6, 3, 90), (12, 3, 63.435), (10, 2, 36), (8, 3, 74.858),
        (24, 3, 43.691), (32, 3, 37.475),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_codes_of_a_sphere_lie_closer_together_than_they_need(classes, channels, best, seed):
    codes = class_codes(classes, channels, seed).double()
    torch.testing.assert_close(codes.norm(dim=1), torch.full((classes,), channels**0.5, dtype=torch.float64))
    cosines = (codes @ codes.T / channels).fill_diagonal_(-1)
    assert math.degrees(math.acos(max(-1.0, cosines.max().item()))) > 0.98 * best


@pytest.mark.parametrize("channels", [1, 3])
def test_codes_change_from_call_to_call_or_not_with_their_seed(channels):
    codes = class_codes(5, channels, seed=0)
    torch.manual_seed(3)
    assert class_codes(5, channels, seed=0).equal(codes)
    assert not class_codes(5, channels, seed=1).allclose(codes, atol=1e-3)


def test_codes_stay_behind_when_weights_are_saved():
    modality = segmentation()
    assert set(modality.encoder((3, 6, 6)).state_dict()) == {"codes"}
    assert "filters" in modality.decoder((3, 6, 6), FEATURES).state_dict()


# Encoding


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_is_encoded_as_another_class_s_code(channels):
    modality = segmentation(ignore=255, code_seed=2)
    maps = class_map()
    maps[0, 1, 2] = 255
    encoding = modality.encoder((channels, 6, 6))(modality.prepare(maps, generator(0)))
    codes = class_codes(3, channels, seed=2)
    assert encoding.shape == (2, channels, 6, 6)
    for b in range(2):
        for y in range(6):
            for x in range(6):
                expected = torch.zeros(channels) if maps[b, y, x] == 255 else codes[int(maps[b, y, x])]
                assert encoding[b, :, y, x].equal(expected)


def test_the_expected_encoding_is_not_the_probability_weighted_sum():
    modality = segmentation()
    logits = torch.randn(2, 6, 6, 3, generator=torch.Generator().manual_seed(0))
    expected = modality.encoder((3, 6, 6)).expected(ClassMap(logits, -1))
    codes, probabilities = class_codes(3, 3, 0), logits.softmax(dim=-1)
    by_hand = sum(probabilities[..., k, None] * codes[k] for k in range(3)).movedim(-1, 1)
    torch.testing.assert_close(expected, by_hand)


def test_the_expected_encoding_differs_from_the_average_encoding_of_draws():
    modality, found = segmentation(), ClassMap(torch.randn(1, 6, 6, 3), -1)
    encoder = modality.encoder((3, 6, 6))
    torch.manual_seed(0)
    average = torch.stack([encoder(found.sample()) for _ in range(4000)]).mean(dim=0)
    assert (average - encoder.expected(found)).abs().max() < 5 * (3 / 4000) ** 0.5


def test_a_certain_distribution_is_encoded_otherwise_than_its_value():
    encoder = segmentation().encoder((3, 6, 6))
    maps = class_map().long()
    certain = ClassMap(200.0 * torch.nn.functional.one_hot(maps, 3), -1)
    torch.testing.assert_close(encoder.expected(certain), encoder(maps))


def test_a_map_of_another_size_than_the_space_is_accepted():
    with pytest.raises(UserError, match=r"\(6, 6\) does not fit a space of height and width \(8, 6\)"):
        segmentation().encoder((3, 8, 6))


def test_a_block_of_its_own_has_another_number_of_channels_than_was_asked_for():
    assert segmentation().block_channels() == 3
    assert segmentation(code_channels=5).block_channels() == 5


# The distribution


def test_the_probabilities_of_a_pixel_s_classes_do_not_sum_to_one():
    found = ClassMap(torch.randn(4, 1, 1, 3), -1)
    total = sum(found.log_prob(torch.full((4, 1, 1), k)).exp() for k in range(3))
    torch.testing.assert_close(total, torch.ones(4))


def test_the_log_probability_is_not_the_sum_over_labelled_pixels():
    logits, maps = torch.randn(2, 6, 6, 3), class_map().long()
    maps[0, :, 2] = 255
    log = logits.log_softmax(dim=-1)
    expected = [
        sum(log[b, y, x, maps[b, y, x]] for y in range(6) for x in range(6) if maps[b, y, x] != 255) for b in range(2)
    ]
    torch.testing.assert_close(ClassMap(logits, 255).log_prob(maps), torch.stack(expected))


@pytest.mark.parametrize("ignore", [255, 0])
def test_an_ignored_pixel_changes_the_loss_or_gets_a_gradient(ignore):
    maps = class_map().long().clamp(min=1)
    maps[:, 2:4] = ignore
    logits = torch.randn(2, 6, 6, 3)
    if ignore == 0:
        logits[..., 0] = -torch.inf
    other = logits.clone()
    other[:, 2:4] += torch.randn(2, 2, 6, 3)
    losses = []
    for values in (logits, other):
        leaf = values.clone().requires_grad_()
        loss = negative_log_likelihood(ClassMap(leaf, ignore), maps)
        loss.sum().backward()
        losses.append(loss)
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[:, 2:4] == 0).all()
        assert (leaf.grad[:, :2, :, 1:] != 0).all()
    assert losses[0].equal(losses[1])


def test_the_mode_is_not_the_likeliest_class_or_a_draw_no_class():
    logits = torch.randn(2, 6, 6, 3)
    found = ClassMap(logits, -1)
    assert found.mode.equal(logits.argmax(dim=-1))
    torch.manual_seed(0)
    assert set(found.sample().unique().tolist()) == {0, 1, 2}
    assert found.sample().dtype == torch.int64


def test_classes_are_drawn_more_or_less_often_than_they_are_probable():
    torch.manual_seed(0)
    probabilities = torch.tensor([[0.0, 0.7, 0.1, 0.2, 0.0], [0.25, 0.0, 0.5, 0.0, 0.25]])
    found = ClassMap(probabilities.log()[None, :, None], -1)  # one sample, two pixels
    torch.testing.assert_close(found.probabilities[0, :, 0], probabilities)
    drawn = found.sample((40_000,))
    assert drawn.shape == (40_000, 1, 2, 1)
    for pixel, expected in enumerate(probabilities):
        share = drawn[:, 0, pixel, 0].bincount(minlength=5) / 40_000
        assert (share[expected == 0] == 0).all()
        torch.testing.assert_close(share, expected, atol=0.01, rtol=0)  # four standard errors


def test_it_is_taken_for_continuous_and_so_never_drawn_from():
    assert is_discrete(ClassMap(torch.randn(2, 6, 6, 3), -1))


# The head


def features_of(feature_map):
    return type("Features", (), {"map": feature_map})


@pytest.mark.parametrize("slot", [(1, 6, 6), (3, 6, 6)])
def test_the_head_gives_no_likelihood_per_sample(slot):
    modality = segmentation(ignore=255)
    found = modality.decoder(slot, FEATURES)(features_of(torch.randn(2, 8, 6, 6)), silent_slot(2, slot))
    assert (found.batch_shape, found.event_shape) == ((2,), (6, 6))
    assert found.log_prob(modality.prepare(class_map(), generator(0))).isfinite().all()


def test_a_part_of_the_head_learns_nothing():
    modality = segmentation()
    head = modality.decoder((3, 6, 6), FEATURES)
    head(features_of(torch.randn(2, 8, 6, 6)), silent_slot(2, (3, 6, 6))).log_prob(class_map().long()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_head_that_sees_nothing_else_misses_the_posterior_of_a_code_in_noise(channels):
    signal, noise = 0.4, 0.9
    codes = class_codes(4, channels, seed=0).double()
    head = ClassMapHead(channels, hidden=4, codes=codes, ignore=-1).double()
    torch.nn.init.zeros_(head.layers[-1].weight)
    torch.nn.init.zeros_(head.layers[-1].bias)
    z = torch.randn(2, channels, 6, 6, dtype=torch.float64)
    densities = [
        -((z - signal * code[:, None, None]) ** 2).sum(dim=1) / (2 * noise**2) for code in codes
    ]  # (B, H, W) each
    posterior = torch.stack(densities, dim=-1).softmax(dim=-1)
    found = head(features_of(z), noisy_slot(z, signal, noise**2)).base_dist.probs
    torch.testing.assert_close(found.double(), posterior, atol=1e-5, rtol=1e-5)


def test_an_ignored_class_is_predicted():
    head = segmentation(ignore=1).decoder((3, 6, 6), FEATURES)
    found = head(features_of(10 * torch.randn(8, 8, 6, 6)), silent_slot(8, (3, 6, 6)))
    assert (found.base_dist.probs[..., 1] == 0).all()
    assert 1 not in found.sample()
    assert segmentation(ignore=1).encoder((3, 6, 6)).expected(found).isfinite().all()
    values = torch.full((8, 6, 6), 1)
    assert found.log_prob(values).equal(torch.zeros(8))


# Values in their three forms


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
@pytest.mark.parametrize("shape", [(6, 6), (1, 6, 6)])
def test_classes_are_changed_on_their_way_to_the_model_and_back(dtype, shape):
    modality, maps = segmentation(shape=shape, dtype=dtype), class_map()
    field = maps.to(getattr(torch, dtype)).reshape(2, *shape)
    values = modality.prepare(field, generator(0))
    assert values.dtype == torch.int64
    assert modality.natural(values).equal(maps.long())


@pytest.mark.parametrize(("value", "ignore", "allowed"), [(3, -1, "0 to 2"), (7, 255, r"0 to 2 and 255 \(ignored\)")])
def test_a_class_outside_the_data_s_own_is_accepted(value, ignore, allowed):
    maps = class_map()
    maps[1, 2, 3] = value
    with pytest.raises(UserError, match=rf"class {value} is outside the data's classes, {allowed}\n.*set ignore to it"):
        segmentation(ignore=ignore).prepare(maps, generator(0))


def test_a_map_is_mirrored_otherwise_than_its_image():
    pictures = class_map(400)
    as_image = Image(flip=True).bind(FieldSpec(shape=(1, 6, 6), dtype="uint8"))
    image = as_image.augment(as_image.prepare(pictures[:, None], generator(0)), generator(0, "augment"))
    modality = segmentation(flip=True)
    maps = modality.augment(modality.prepare(pictures, generator(0)), generator(0, "augment"))
    assert ((image[:, 0] + 1) * 127.5).round().long().equal(maps)
    mirrored = (maps == pictures.flip(-1)).flatten(1).all(dim=1).sum()
    assert 150 < mirrored < 250
    assert segmentation().augment(pictures.long(), generator(0)).equal(pictures.long())


# Pictures


# The first ten of VOC, as its development kit lists them, and void.
VOC = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
    (64, 0, 0), (192, 0, 0),
]  # fmt: skip


def test_colours_are_not_those_of_voc():
    assert [voc_colour(i) for i in range(10)] == VOC
    assert voc_colour(20) == (0, 64, 128)  # tv monitor
    assert voc_colour(255) == (224, 224, 192)
    assert len({voc_colour(i) for i in range(256)}) == 256


def test_a_class_is_drawn_in_another_s_colour():
    modality = segmentation(palette=("#ff0000", "#00FF00", "#0000ff"), ignore=255)
    drawn = modality.render(torch.tensor([[[0, 1], [2, 255]]]))
    assert drawn.dtype == torch.uint8
    assert drawn[0].flatten(1).T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [224, 224, 192]]
    default = segmentation().render(torch.tensor([[[0, 1, 2]]]))
    assert default[0, :, 0].T.tolist() == [list(colour) for colour in VOC[:3]]


@pytest.mark.parametrize(
    ("palette", "message"), [(("red",) * 3, "'red'"), (("#ff000",) * 3, "'#ff000'"), (("#gg0000",) * 3, "'#gg0000'")]
)
def test_what_is_no_colour_is_accepted(palette, message):
    with pytest.raises(ValueError, match=f"palette must hold colours such as '#ff8000', not {message}"):
        Segmentation(palette=palette)


def test_a_palette_of_another_length_than_the_classes_is_accepted():
    with pytest.raises(UserError, match="palette has 2 colours, and the data 3 classes"):
        segmentation(palette=("#000000", "#ffffff"))


@pytest.mark.parametrize("top", [1, 3, 15, 40, 255])
def test_an_indexed_png_comes_back_changed(tmp_path, top):
    stored = torch.randint(top + 1, (7, 5), generator=torch.Generator().manual_seed(0))
    stored[0, 0] = top
    write_indexed_png(tmp_path / "map.png", stored, [voc_colour(i) for i in range(top + 1)])
    assert read_class_map(tmp_path / "map.png").equal(stored)
    with Picture.open(tmp_path / "map.png") as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((0, 0)) == voc_colour(top)


def indexed(path, classes):
    write_indexed_png(path, classes, [voc_colour(i) for i in range(256)])


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_a_given_file_is_read_otherwise_than_it_was_written(tmp_path, mode):
    maps = class_map(1, classes=2 if mode == "1" else 3)
    if mode == "P":
        indexed(tmp_path / "map.png", maps[0])
    elif mode == "1":
        Picture.fromarray(maps[0].bool().numpy()).save(tmp_path / "map.png")
    else:
        Picture.fromarray(maps[0].numpy()).save(tmp_path / "map.png")
    with Picture.open(tmp_path / "map.png") as picture:
        assert picture.mode == mode
    assert segmentation().parse(str(tmp_path / "map.png")).equal(maps.long())


def test_a_given_folder_is_read_in_another_order_than_its_names(tmp_path):
    maps = class_map(3)
    for name, one in zip(("b", "c", "a"), maps, strict=True):
        indexed(tmp_path / f"{name}.png", one)
    assert segmentation().parse(str(tmp_path)).equal(maps[[2, 0, 1]].long())


def test_a_map_of_another_size_mixes_classes_or_is_cropped_otherwise_than_images(tmp_path):
    wide = torch.zeros(12, 24, dtype=torch.uint8)  # covers 6x12, and the middle 6x6 is kept
    wide[:4, :10] = wide[4:, 10:] = 2
    indexed(tmp_path / "map.png", wide)
    Picture.fromarray((wide * 100).numpy()).save(tmp_path / "image.png")
    (found,) = segmentation().parse(str(tmp_path / "map.png"))
    image = Image().bind(FieldSpec(shape=(1, 6, 6), dtype="uint8")).parse(str(tmp_path / "image.png"))
    expected = torch.zeros(6, 6, dtype=torch.int64)
    expected[:2, :2] = expected[2:, 2:] = 2
    assert found.equal(expected)
    assert found.equal(torch.where(image[0, 0] > 100 / 127.5 - 1, 2, 0))


def test_an_ignored_value_of_a_file_is_refused(tmp_path):
    maps = class_map(1)[0]
    maps[2] = 255
    indexed(tmp_path / "map.png", maps)
    assert segmentation(ignore=255).parse(str(tmp_path / "map.png"))[0].equal(maps.long())


@pytest.fixture
def files(tmp_path):
    """Files of which none can be read as a class map."""
    indexed(tmp_path / "high.png", torch.tensor([[0, 1], [9, 2]]))
    (tmp_path / "folder").mkdir()
    indexed(tmp_path / "folder" / "a.png", torch.zeros(2, 2))
    indexed(tmp_path / "folder" / "b.png", torch.full((2, 2), 255))
    Picture.new("RGB", (6, 6)).save(tmp_path / "colours.png")
    Picture.new("L", (6, 6)).save(tmp_path / "grey.jpg")
    (tmp_path / "text.png").write_text("no picture")
    indexed(tmp_path / "cut.png", torch.randint(200, (64, 64)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-2000])
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", r"nowhere\.png: no such file or folder\n.*indexed or 8-bit grey PNG"),
        ("empty", r"empty: holds no pictures\n.*indexed or 8-bit grey PNG"),
        ("high.png", r"high\.png: class 9 is outside the data's classes, 0 to 2\n.*set ignore"),
        ("folder", r"folder/b\.png: class 255 is outside the data's classes, 0 to 2"),
        ("colours.png", r"colours\.png: is a PNG of colours or 16-bit values \(Pillow's mode RGB\)\n.*indexed"),
        ("grey.jpg", r"grey\.jpg: is no PNG\n.*indexed"),
        ("text.png", r"text\.png: is no PNG\n.*indexed"),
        ("cut.png", r"cut\.png: cannot be read as a PNG \(.+\)\n.*indexed"),
    ],
)
def test_a_file_that_holds_no_class_map_is_accepted(files, name, message):
    with pytest.raises(UserError, match=message):
        segmentation().parse(str(files / name))


@pytest.mark.parametrize(
    "spec",
    [
        FieldSpec(shape=(3, 6, 6), dtype="uint8", classes=THREE),
        FieldSpec(shape=(), dtype="int64", classes=THREE),
        FieldSpec(shape=(6, 6), dtype="float32", classes=THREE),
        FieldSpec(shape=(6, 6), dtype="uint8"),
        FieldSpec(shape=(6, 6), dtype="uint8", classes=("one",)),
        FieldSpec(shape=(6, 6), dtype="int64", classes=tuple(map(str, range(257)))),
    ],
    ids=str,
)
def test_a_field_that_holds_no_class_map_is_accepted(spec):
    with pytest.raises(UserError, match="a segmentation is uint8 or int64 of shape"):
        Segmentation().bind(spec)


def test_the_map_differs_from_torch_s_own_categorical_where_nothing_is_ignored():
    logits, maps = torch.randn(2, 6, 6, 3), class_map().long()
    torch.testing.assert_close(
        ClassMap(logits, -1).log_prob(maps), Categorical(logits=logits).log_prob(maps).sum(dim=(1, 2))
    )
