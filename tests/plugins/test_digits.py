"""The shipped digits: counts and values as in the file that ships."""

import pytest
import torch
from safetensors.torch import load_file

from mtdiff_image.digits import FILE, Digits


def stacked(split, size):
    samples = Digits(size=size).open(split)
    rows = [samples[i] for i in range(len(samples))]
    return samples.fields, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_there_are_1500_digits_to_train_and_297_to_test():
    assert len(Digits().open("train")) == 1500
    assert len(Digits().open("test")) == 297


def test_the_two_splits_are_the_whole_file_in_its_order_and_share_nothing():
    stored = load_file(FILE)
    (_, train), (_, test) = stacked("train", 8), stacked("test", 8)
    assert torch.cat([train["label"], test["label"]]).equal(stored["label"].long())
    ink = torch.cat([train["image"], test["image"]]).double() / 255 * 16
    torch.testing.assert_close(ink, stored["image"].double(), atol=0.04, rtol=0)  # half of 1/255, in units of 1/16


def test_every_digit_is_there_as_often_as_the_source_says():
    (_, train), (_, test) = stacked("train", 8), stacked("test", 8)
    in_train, in_test = train["label"].bincount(minlength=10), test["label"].bincount(minlength=10)
    assert (in_train + in_test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI, optdigits.names
    assert in_train.min() > 140
    assert in_test.min() > 25


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [4, 8, 16, 21])
def test_samples_are_what_the_fields_say_at_the_asked_size(split, size):
    fields, tensors = stacked(split, size)
    assert fields["image"].shape == (1, size, size) == tensors["image"].shape[1:]
    assert fields["image"].dtype == "uint8"
    assert tensors["image"].dtype == torch.uint8
    assert fields["label"].classes == tuple("0123456789")
    assert tensors["label"].dtype == torch.int64


def test_enlarged_digits_use_the_whole_range_and_keep_their_ink():
    (_, small), (_, large) = stacked("test", 8), stacked("test", 16)
    assert (large["image"].min(), large["image"].max()) == (0, 255)
    ink, resized = (t["image"].float().mean(dim=(1, 2, 3)) for t in (small, large))
    torch.testing.assert_close(resized, ink, rtol=0.05, atol=0)


def test_a_zero_is_hollow_and_a_one_is_not():
    _, train = stacked("train", 8)
    middle = train["image"][:, 0, 3:5, 3:5].float().mean(dim=(1, 2))
    assert middle[train["label"] == 0].mean() < 60 < 180 < middle[train["label"] == 1].mean()
