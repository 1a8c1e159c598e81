"""Directions: how they are read, and what is no direction."""

import pytest

from mtdiff_core.directions import Direction, direction, parse_direction
from mtdiff_core.errors import UserError

NAMES = ("image", "label", "mask")


def test_known_and_generated_follow_the_recipes_order_and_not_the_users():
    assert direction(["mask", "image"], NAMES) == Direction(("image", "mask"), ("label",))


def test_with_nothing_known_everything_is_generated():
    assert direction([], NAMES) == Direction((), NAMES)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("joint", ()),
        ("joint -> image + label + mask", ()),
        ("label", ("label",)),
        ("label -> image + mask", ("label",)),
        ("label->mask+image", ("label",)),
        ("mask + image", ("image", "mask")),
        ("  mask+image  ->  label ", ("image", "mask")),
    ],
)
def test_a_direction_is_read_with_and_without_spaces_and_its_right_side(text, known):
    generated = tuple(name for name in NAMES if name not in known)
    assert parse_direction(text, NAMES) == Direction(known, generated)


@pytest.mark.parametrize("known", [[], ["image"], ["label", "mask"]])
def test_a_direction_as_it_is_written_is_read_as_itself(known):
    one = direction(known, NAMES)
    assert parse_direction(str(one), NAMES) == one


def test_a_single_modality_can_only_be_generated():
    assert str(direction([], ["image"])) == "joint -> image"
    with pytest.raises(UserError, match="nothing to generate"):
        direction(["image"], ["image"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lable -> image + mask", "there is no modality 'lable'\n  did you mean 'label'? allowed: image, label, mask"),
        ("joint + label", "there is no modality 'joint'"),
        ("image + label + mask", "everything is given, so there is nothing to generate"),
        ("label -> image", "leaves a modality out\n  all others are generated: 'label -> image + mask'"),
        ("joint -> image + label", "all others are generated: 'joint -> image + label + mask'"),
        ("label -> label + image + mask", "'label -> image + mask'"),
        ("label -> imgae + mask", "'label -> image + mask'"),
        ("label ->", "'label -> image + mask'"),
        ("-> image", "there is no modality ''"),
        ("", "there is no modality ''"),
        ("image -> label -> mask", "leaves a modality out"),
    ],
)
def test_what_is_no_direction_is_refused_with_what_would_be_right(text, message):
    with pytest.raises(UserError) as raised:
        parse_direction(text, NAMES)
    assert message in str(raised.value)
