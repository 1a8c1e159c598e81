"""Pairs of pictures: both layouts, which half is which, both halves treated alike, and folders that make no pairs."""

import pytest
from PIL import Image as Picture

from mtdiff_core import MissingSplitError, UserError
from mtdiff_datasets import PairedFolder

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZE = 8


def save(path, *colours, width=10, height=10):
    """A picture with one square of each colour, from left to right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Picture.new("RGB", (width * len(colours), height))
    for i, colour in enumerate(colours):
        picture.paste(colour, (i * width, 0, (i + 1) * width, height))
    picture.save(path)


def open_pairs(path, split="train", **options):
    return PairedFolder(**{"path": str(path), "size": SIZE, **options}).open(split)


def colours(sample):
    return {name: tuple(value.float().mean(dim=(1, 2)).round().int().tolist()) for name, value in sample.items()}


@pytest.fixture(params=["side by side", "two folders"])
def pairs(request, tmp_path):
    """Red beside green to train, blue beside white to test, in either layout."""
    for split, name, (first, second) in (("train", "1", (RED, GREEN)), ("test", "2", (BLUE, WHITE))):
        if request.param == "side by side":
            save(tmp_path / split / f"{name}.png", first, second)
        else:
            save(tmp_path / f"{split}A" / f"{name}.png", first)
            save(tmp_path / f"{split}B" / f"{name}.png", second)
    return tmp_path


def test_the_wrong_half_is_first_or_a_split_is_mistaken_for_the_other(pairs):
    assert colours(open_pairs(pairs)[0]) == {"image": RED, "paired_image": GREEN}
    assert colours(open_pairs(pairs, "test")[0]) == {"image": BLUE, "paired_image": WHITE}


def test_order_and_names_are_not_followed(pairs):
    samples = open_pairs(pairs, order="BA", names=("photo", "drawing"))
    assert list(samples.fields) == ["photo", "drawing"]
    assert colours(samples[0]) == {"photo": GREEN, "drawing": RED}


@pytest.mark.parametrize("colour", [True, False])
def test_a_field_holds_something_else_than_it_says(pairs, colour):
    samples = open_pairs(pairs, colour=colour)
    for name, spec in samples.fields.items():
        assert spec.shape == samples[0][name].shape == (3 if colour else 1, SIZE, SIZE)


def test_only_the_folder_test_is_taken_for_the_test_split(tmp_path):
    save(tmp_path / "train" / "a.png", RED, GREEN)
    save(tmp_path / "val" / "b.png", BLUE, WHITE)
    assert colours(open_pairs(tmp_path, "test")[0]) == {"image": BLUE, "paired_image": WHITE}
    save(tmp_path / "test" / "c.png", WHITE, BLUE)
    assert colours(open_pairs(tmp_path, "test")[0]) == {"image": WHITE, "paired_image": BLUE}


def test_the_two_halves_are_cropped_differently_or_run_into_each_other(tmp_path):
    save(tmp_path / "train" / "a.png", RED, GREEN, BLUE, RED, GREEN, BLUE, width=8, height=8)  # halves of 24x8
    assert colours(open_pairs(tmp_path)[0]) == {"image": GREEN, "paired_image": GREEN}


def test_pairs_are_matched_by_their_order_rather_than_their_names(tmp_path):
    for side, suffix, shades in (("A", "png", (RED, BLUE)), ("B", "jpg", (GREEN, WHITE))):
        for name, colour in zip(("x/1", "y/1"), shades, strict=True):
            save(tmp_path / f"train{side}" / f"{name}.{suffix}", colour)
    samples = open_pairs(tmp_path)
    assert len(samples) == 2
    first, second = (colours(samples[i]) for i in range(2))
    assert (first["image"], second["image"]) == (RED, BLUE)
    assert first["paired_image"][1] > 240 > 10 > first["paired_image"][0]
    assert min(second["paired_image"]) > 240


@pytest.mark.parametrize("memory_mb", [0, 1])
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"train/a.png": 21}, r"a\.png: has an odd width of 21"),
        ({"trainA/a.png": 10, "trainB/a.png": 12}, r"a\.png: differs in size from its pair: 10x10 and 12x10"),
        ({"trainA/a.png": 10, "trainB/a.png": 0}, r"a\.png: is no picture"),
    ],
)
def test_two_pictures_that_make_no_pair_are_used(tmp_path, files, reason, memory_mb):
    for name, width in files.items():
        if width:
            save(tmp_path / name, RED, width=width)
        else:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text("no picture")
    with pytest.raises(UserError, match=rf"1 of 1 pairs cannot be read.*\n(.|\n)*{reason}"):
        open_pairs(tmp_path, memory_mb=memory_mb)[0]


def test_a_bad_pair_within_the_accepted_share_stops_or_shifts_the_others(tmp_path, caplog):
    for i in range(4):
        save(tmp_path / "train" / f"{i}.png", (i * 10, 0, 0), RED)
    (tmp_path / "train" / "1.png").write_text("no picture")
    samples = open_pairs(tmp_path, max_bad=0.25)
    assert [colours(samples[i])["image"][0] for i in range(len(samples))] == [0, 20, 30]
    assert "1 pairs left out" in caplog.text
    assert "1.png" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["trainA/a.png", "trainA/b.png", "trainB/b.png"], "'a' is in trainA and not in trainB"),
        (["trainA/b.png", "trainB/b.png", "trainB/c.png", "trainB/d.png"], "'c' is in trainB and not in trainA, and 1"),
        (["trainA/a.png", "trainA/a.jpg", "trainB/a.png"], r"a\.jpg and a\.png have one name"),
        (["trainA/a.png"], "trainB: no such folder"),
        (["a.png"], "holds no folder train or trainA"),
        (["train/a.png", "trainA/a.png", "trainB/a.png"], "holds both a folder train and a folder trainA"),
        (["train/notes.txt"], "no pictures for the train split"),
    ],
)
def test_a_layout_that_is_not_understood_is_read(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("") if name.endswith("txt") else save(tmp_path / name, RED)
    with pytest.raises(UserError, match=message) as caught:
        open_pairs(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_is_reported_without_the_layout_expected(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder\n(.|\n)*PATH/train/001\.png"):
        open_pairs(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["train", "trainA"])
def test_training_pairs_stand_in_for_a_test_split_that_is_not_there(tmp_path, folder):
    save(tmp_path / folder / "a.png", RED, GREEN)
    with pytest.raises(MissingSplitError, match="there is no folder test"):
        open_pairs(tmp_path, "test")


@pytest.mark.parametrize("names", [(), ("a",), ("a", "a"), ("a", ""), ("a", "b", "c")])
def test_other_than_two_different_names_are_accepted(names):
    with pytest.raises(ValueError, match="names must be two different names"):
        PairedFolder(path="x", names=names)
