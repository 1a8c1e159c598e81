"""What a comparison consists of."""

from pathlib import Path

import pytest

from mtdiff_core.cli.compare import BEFORE_KEY
from mtdiff_core.comparison.plan import CONTROL, Plan, check_comparable, with_controls
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.loading import load_recipe
from tests.conftest import CLONE


@pytest.fixture
def recipes(registry):
    def load(*texts):
        found = {}
        for text in texts:
            name, *overrides = BEFORE_KEY.split(text)
            overrides.append("train.steps=1500")
            found[text] = load_recipe(CLONE / "recipes" / f"{name}.toml", registry, overrides)
        return found

    return load


def plan(recipes, **options):
    settings = {"seeds": [0, 1], "shares": [0.25, 0.5, 1.0], "metrics": {}, "num": 8, "folder": Path("out"), **options}
    return Plan(recipes=recipes, **settings)


def test_runs_are_not_seed_by_seed_or_of_other_recipes_than_asked_for(recipes):
    entries = plan(recipes("image", "image+label")).entries()
    assert [(e.label, e.seed) for e in entries] == [("image", 0), ("image+label", 0), ("image", 1), ("image+label", 1)]
    assert [e.recipe.seed for e in entries] == [0, 0, 1, 1]
    assert len({e.folder for e in entries}) == 4
    assert plan(recipes("image", "image+label")).steps(entries[0].recipe) == [375, 750, 1500]
    elsewhere = plan(recipes("image", "image+label"), shares=[1 / 3, 1.0])
    assert elsewhere.steps(entries[0].recipe) == [500, 1500]
    assert [e.recipe.to_toml() for e in elsewhere.entries()] == [e.recipe.to_toml() for e in entries]


def test_recipes_are_judged_on_what_they_do_not_share(recipes):
    alone = plan(recipes("image", "image+label"))
    assert alone.common() == ("image",)
    assert [str(one) for one in alone.directions(alone.recipes["image+label"])] == ["joint -> image + label"]
    both = plan(recipes("image+label", "image+label-blocks"))
    assert both.common() == ("image", "label")
    assert [one.known for one in both.directions(both.recipes["image+label"])] == [(), ("image",), ("label",)]
    unread = plan(recipes("image+label", "image+label,modalities.label.curve=none"))
    assert [one.known for one in unread.directions(unread.recipes["image+label"])] == [(), ("image",)]


def test_a_control_has_its_views_in_z_or_a_loss_of_theirs(recipes, registry):
    found = with_controls(recipes("image", "masked-image"), registry)
    assert list(found) == ["image", "masked-image", "masked-image" + CONTROL]
    control = found["masked-image" + CONTROL]
    assert control.modalities["masked_image"].options.weight == 0
    assert not control.aggregator.carries(control.modalities["masked_image"].aggregation)
    assert control.diffusion.conditioning == "observe"
    assert control.diffusion.observe == ("masked_image",)
    assert plan({"masked-image": found["masked-image"], "control": control}).common() == ("image",)
    assert control.diffusion.observe_share > 0
    check_comparable(plan(found))


def test_a_control_is_made_where_there_is_nothing_to_control_for(recipes, registry):
    with pytest.raises(UserError, match="derives a modality"):
        with_controls(recipes("image", "image+label"), registry)


def test_a_control_knows_other_modalities_than_its_recipe(recipes, registry):
    (control,) = list(with_controls(recipes("image+representation"), registry).values())[1:]
    assert control.diffusion.observe == ()  # all, as the recipe has it
    silent = with_controls(recipes("masked-image,diffusion.conditioning=replace,diffusion.observe=[]"), registry)
    assert list(silent.values())[1].diffusion.observe == ("masked_image",)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["image"], "nothing to compare"),
        (["image", "image+label,data.batch_size=32"], r"differ in data\.batch_size: 64 and 32"),
        (["image", "image+segmentation"], r"differ in data\.dataset"),
        (["image,data.size=8", "image"], r"differ in data\.dataset"),
    ],
)
def test_recipes_that_differ_in_more_than_they_say_are_compared(recipes, texts, message):
    with pytest.raises(UserError, match=message):
        check_comparable(plan(recipes(*texts)))


def test_recipes_that_share_no_modality_are_compared(recipes, registry, tmp_path):
    other = (
        (CLONE / "recipes" / "image.toml")
        .read_text()
        .replace("[modalities.image]", "[modalities.other]\nfield='image'")
    )
    (tmp_path / "other.toml").write_text(other.replace('anchor = "image"', 'anchor = "other"'))
    both = {**recipes("image"), "other": load_recipe(tmp_path / "other.toml", registry, ["train.steps=1500"])}
    with pytest.raises(UserError, match="share no modality"):
        check_comparable(plan(both))


def test_unequal_steps_are_compared(recipes, registry):
    short = load_recipe(CLONE / "recipes" / "image.toml", registry, ["train.steps=500"])
    with pytest.raises(UserError, match=r"differ in train\.steps: 1500 and 500"):
        check_comparable(plan({**recipes("image+label"), "short": short}))
