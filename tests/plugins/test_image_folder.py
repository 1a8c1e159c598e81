"""The user's own pictures: formats, shapes, layouts, splits, and files that cannot be read."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from mtdiff_core import UserError
from mtdiff_image import ImageFolder

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
SIZE = 8


def stripes(*colours, across=False, thickness=8, length=8):
    """Stripes of colour from left to right, or ``across`` from top to bottom."""
    row = np.repeat(np.array(colours, dtype=np.uint8), thickness, axis=0)[None].repeat(length, axis=0)
    return Picture.fromarray(row.swapaxes(0, 1) if across else row)


def save(path, picture=None, shade=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or stripes((shade, shade, shade))).save(path, **options)


def open_folder(path, split="train", **options):
    return ImageFolder(**{"path": str(path), "size": SIZE, "test_share": 0, **options}).open(split)


def only(path, **options):
    """The one picture of a folder, as ``(C, H, W)``."""
    samples = open_folder(path, **options)
    assert len(samples) == 1
    return samples[0]["image"]


def shades(samples):
    """Each sample's grey level, for pictures of one colour."""
    return [int(samples[i]["image"].float().mean().round()) for i in range(len(samples))]


def colour_at(image, place):
    return [int(round(x / 40) * 40) for x in image[:, :, place].float().mean(dim=1).tolist()]


@pytest.fixture
def animals(tmp_path):
    """Two classes, of 12 and 8 pictures, each picture of a grey level of its own."""
    for i in range(12):
        save(tmp_path / "ant" / f"{i:02}.png", shade=i * 10)
    for i in range(8):
        save(tmp_path / "bee" / f"{i:02}.png", shade=130 + i * 10)
    return tmp_path


ANIMAL_SHADES = [i * 10 for i in range(12)] + [130 + i * 10 for i in range(8)]


# Formats and shapes


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "PNG", "JPG"])
def test_every_promised_format_is_read_in_colour(tmp_path, suffix):
    save(tmp_path / f"one.{suffix}", stripes((200, 120, 40)), quality=95)
    image = only(tmp_path)
    assert image.shape == (3, SIZE, SIZE)
    torch.testing.assert_close(image.float().mean(dim=(1, 2)), torch.tensor([200.0, 120.0, 40.0]), atol=6, rtol=0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_promised_format_is_read_in_grey(tmp_path, suffix):
    save(tmp_path / f"one.{suffix}", stripes((200, 120, 40)), quality=95)
    image = only(tmp_path, colour=False)
    assert image.shape == (1, SIZE, SIZE)
    luminance = 0.299 * 200 + 0.587 * 120 + 0.114 * 40
    assert abs(image.float().mean() - luminance) < 4


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16"])
def test_every_kind_of_png_becomes_eight_bit_colour(tmp_path, mode):
    white = Picture.fromarray(np.full((8, 8), 65535, dtype=np.uint16)) if mode == "I;16" else stripes(WHITE)
    save(tmp_path / "one.png", white.convert(mode))
    image = only(tmp_path)
    assert image.dtype == torch.uint8
    assert image.equal(torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8))


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path):
    save(tmp_path / "one.png", Picture.fromarray(np.full((8, 8), 100 * 256 + 50, dtype=np.uint16)))
    assert only(tmp_path, colour=False).unique().tolist() == [100]


@pytest.mark.parametrize("across", [False, True], ids=["wide", "tall"])
def test_the_middle_of_a_picture_that_is_not_square_is_kept(tmp_path, across):
    save(tmp_path / "one.png", stripes(RED, GREEN, BLUE, across=across))
    image = only(tmp_path)
    image = image.transpose(1, 2) if across else image
    assert colour_at(image, SIZE // 2) == [0, 240, 0]
    assert image[0].float().mean() < 20, "the left or upper end was kept"
    assert image[2].float().mean() < 20, "the right or lower end was kept"


def test_a_picture_is_never_stretched(tmp_path):
    save(tmp_path / "one.png", stripes(BLACK, WHITE, WHITE, BLACK, thickness=10, length=20))  # the white part is square
    assert only(tmp_path).float().mean() > 230


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 50), (50, 3), (5, 9), (100, 99)])
def test_any_size_and_ratio_is_brought_to_the_asked_size(tmp_path, width, height):
    save(tmp_path / "one.png", Picture.new("RGB", (width, height), WHITE))
    assert only(tmp_path).equal(torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_picture_that_the_camera_held_sideways_stands_upright(tmp_path, suffix):
    exif = Picture.Exif()
    exif[0x0112] = 6  # turn clockwise to show: the upper side goes to the right
    save(tmp_path / f"one.{suffix}", stripes(WHITE, BLACK, across=True, thickness=8, length=16), exif=exif)
    image = only(tmp_path)
    assert colour_at(image, 0) == [0, 0, 0]
    assert colour_at(image, -1) == [240, 240, 240]


# Layouts


def test_class_folders_become_labels_named_after_them(animals):
    samples = open_folder(animals)
    assert samples.fields["label"].classes == ("ant", "bee")
    assert samples.fields["image"].shape == (3, SIZE, SIZE)
    assert [int(samples[i]["label"]) for i in range(20)] == [0] * 12 + [1] * 8
    assert shades(samples) == ANIMAL_SHADES


def test_pictures_deeper_in_a_class_folder_belong_to_the_class(tmp_path):
    save(tmp_path / "ant" / "red" / "a.png")
    save(tmp_path / "bee" / "b.png")
    samples = open_folder(tmp_path)
    assert samples.fields["label"].classes == ("ant", "bee")
    assert len(samples) == 2


def test_a_flat_folder_has_no_label(tmp_path):
    save(tmp_path / "a.png", shade=50)
    save(tmp_path / "b.png", shade=100)
    samples = open_folder(tmp_path)
    assert set(samples.fields) == set(samples[0]) == {"image"}
    assert shades(samples) == [50, 100]


def test_hidden_files_and_folders_and_other_files_are_no_pictures(tmp_path):
    save(tmp_path / "ant" / "a.png", shade=50)
    save(tmp_path / "ant" / "._a.png", shade=99)
    save(tmp_path / ".thumbnails" / "a.png", shade=99)
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    samples = open_folder(tmp_path)
    assert shades(samples) == [50]
    assert samples.fields["label"].classes == ("ant",)


def test_folders_train_and_test_are_the_splits(tmp_path):
    for split, level in (("train", 50), ("test", 100)):
        save(tmp_path / split / "ant" / "a.png", shade=level)
        save(tmp_path / split / "bee" / "b.png", shade=level + 5)
    assert shades(open_folder(tmp_path, "train", test_share=0.5)) == [50, 55], "pictures of train were held out"
    assert shades(open_folder(tmp_path, "test", test_share=0.5)) == [100, 105]


def test_a_class_that_one_split_lacks_does_not_renumber_the_others(tmp_path):
    for name in ("ant", "bee", "cat"):
        save(tmp_path / "train" / name / "a.png")
    save(tmp_path / "test" / "cat" / "a.png")
    train, test = open_folder(tmp_path, "train"), open_folder(tmp_path, "test")
    assert test.fields == train.fields
    assert int(test[0]["label"]) == 2


def test_a_class_that_the_held_out_share_lacks_does_not_renumber_the_others(animals):
    train, test = (open_folder(animals, split, test_share=0.05) for split in ("train", "test"))
    assert len(test) == 1
    assert test.fields == train.fields
    assert int(test[0]["label"]) == (shades(test)[0] >= 130)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_the_held_out_share_is_disjoint_complete_and_spread_over_classes(animals, share):
    train, test = (shades(open_folder(animals, split, test_share=share)) for split in ("train", "test"))
    assert sorted(train + test) == ANIMAL_SHADES
    assert len(test) == round(20 * share)
    assert {level >= 130 for level in test} == {False, True}


def test_the_held_out_share_is_the_same_whenever_the_folder_is_opened(animals):
    first, second = (shades(open_folder(animals, "test", test_share=0.3)) for _ in range(2))
    assert first == second


def test_holding_out_nothing_leaves_no_test_split_rather_than_the_training_pictures(animals):
    assert len(open_folder(animals, "train", test_share=0)) == 20
    with pytest.raises(UserError, match="no pictures for the test split"):
        open_folder(animals, "test", test_share=0)


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        (["loose.png", "ant/a.png"], "train", r"1 pictures, such as loose\.png, lie beside the class folders"),
        (["train/a.png"], "test", "there is a folder train, but no folder test beside it"),
        (["train/a.png", "bus/a.png"], "train", "holds the training split, and bus lies beside it, with pictures too"),
        (["train/a.png", "val/x/a.png"], "train", "holds the training split, and val lies beside it"),
        (["notes.txt"], "train", "no pictures for the train split"),
    ],
)
def test_a_layout_that_is_not_understood_is_reported_with_the_one_expected(tmp_path, files, split, message):
    for name in files:
        save(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message) as caught:
        open_folder(tmp_path, split)
    assert str(tmp_path) in str(caught.value)
    assert "PATH/cat/001.png" in str(caught.value)


def test_a_folder_that_is_not_there_is_reported_with_the_layout_expected(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder\n(.|\n)*PATH/cat/001\.png"):
        open_folder(tmp_path / "nowhere")


# Reading, at once or one by one


def test_pictures_read_one_by_one_are_those_read_at_once(animals):
    at_once, lazily = open_folder(animals, memory_mb=1), open_folder(animals, memory_mb=0)
    assert type(at_once) is not type(lazily)
    assert len(at_once) == len(lazily) == 20
    assert at_once.fields == lazily.fields
    for i in range(20):
        one, other = at_once[i], lazily[i]
        assert one["image"].equal(other["image"])
        assert one["label"].equal(other["label"])
        assert one["label"].dtype == other["label"].dtype == torch.int64


def spoil(path):
    path.write_bytes(path.read_bytes()[:40])


def test_unreadable_pictures_are_left_out_with_their_labels_and_listed_once(animals, caplog):
    spoil(animals / "ant" / "03.png")
    spoil(animals / "bee" / "02.png")
    with caplog.at_level(logging.WARNING):
        samples = open_folder(animals, max_bad=0.1)
    assert shades(samples) == [level for level in ANIMAL_SHADES if level not in (30, 150)]
    assert [int(samples[i]["label"]) for i in range(18)] == [0] * 11 + [1] * 7
    (record,) = caplog.records
    assert "2 pictures left out" in record.getMessage()
    assert record.getMessage().count("03.png") == record.getMessage().count("02.png") == 1


def test_read_one_by_one_an_unreadable_picture_gives_way_to_the_next_and_is_reported_once(animals, caplog):
    spoil(animals / "ant" / "11.png")
    with caplog.at_level(logging.WARNING):
        samples = open_folder(animals, max_bad=0.1, memory_mb=0)
        first, second = samples[11], samples[11]
    assert int(first["image"].float().mean().round()) == 130
    assert int(first["label"]) == 1, "the label is that of the unreadable picture"
    assert first["image"].equal(second["image"])
    (record,) = caplog.records
    assert "11.png" in record.getMessage()


def read_all(samples):
    return [samples[i] for i in range(len(samples))]


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_too_many_unreadable_pictures_stop_with_their_number_and_names(animals, memory_mb):
    for i in range(3):
        spoil(animals / "ant" / f"{i:02}.png")
    assert read_all(open_folder(animals, max_bad=0.15, memory_mb=memory_mb))
    with pytest.raises(UserError, match=r"3 of 20 pictures cannot be read, more than max_bad = 0\.1\n") as caught:
        read_all(open_folder(animals, max_bad=0.1, memory_mb=memory_mb))
    assert all(f"{i:02}.png" in str(caught.value) for i in range(3))


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_folder_of_nothing_readable_stops_even_where_all_may_be_bad(tmp_path, memory_mb):
    save(tmp_path / "a.png")
    spoil(tmp_path / "a.png")
    with pytest.raises(UserError, match="none of the pictures can be read"):
        read_all(open_folder(tmp_path, max_bad=1, memory_mb=memory_mb))
