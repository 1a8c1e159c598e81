"""Figures of finished runs side by side."""

import json
from pathlib import Path

import attrs
import pytest

from mtdiff_core.comparison.comparison import compared, how_judged
from mtdiff_core.comparison.costs import costs_of
from mtdiff_core.comparison.plan import Plan
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.loading import load_recipe
from tests.conftest import CLONE

SHARES = [0.5, 1.0]
# By recipe and seed: values after each share.
RUNS = {
    ("image", 0): [8.0, 4.0],
    ("image", 1): [6.0, 2.0],
    ("image+label", 0): [10.0, 6.0],
    ("image+label", 1): [12.0, 2.0],
}
# The joint recipe is twice as fast; the machine was slow in the last round.
COSTS = costs_of("image", {"image+label": {"own": [0.5, 0.5, 3.0], "reference": [1.0, 1.0, 6.0]}})


@pytest.fixture
def plan(registry, tmp_path):
    recipes = {
        name: load_recipe(CLONE / "recipes" / f"{name}.toml", registry, ["train.steps=100"])
        for name in ("image", "image+label")
    }
    return Plan(recipes=recipes, seeds=[0, 1], shares=SHARES, metrics={}, num=8, folder=tmp_path)


def write(plan, refused=None, figures=True):
    for entry in plan.entries():
        values = RUNS[entry.label, entry.seed]
        (entry.folder / "judged").mkdir(parents=True)
        for step, value in zip(plan.steps(entry.recipe), values, strict=True):
            figure = {
                "name": "distance", "of": ["image"], "value": value, "interval": [0, 20], "n": 8, "better": "lower",
                "baselines": {}, "features": "", "unit": "",
            }  # fmt: skip
            other = {**figure, "name": "accuracy", "of": ["label"]}
            joint = {"known": [], "figures": [figure, other] if figures else [], "refused": refused or {}}
            judged = {"how": how_judged(plan), "directions": [joint], "equal_start": 0.5}
            Path(entry.folder / "judged" / f"step-{step}.json").write_text(json.dumps(judged))


def test_figures_are_put_beside_others_than_their_own(plan):
    write(plan)
    found = compared(plan, COSTS)
    (figure,) = found["figures"]  # the label is not common
    assert [value["each"] for value in figure["values"]["image+label"]] == [[10, 12], [6, 2]]
    assert [pair["mean"] for pair in figure["paired"]["image+label"]] == [pytest.approx(4), pytest.approx(1)]
    assert figure["paired"]["image+label"][1]["ratio"] == pytest.approx(8 / 6)
    assert found["cost"] == COSTS


def test_equal_time_is_taken_for_equal_steps(plan):
    write(plan)
    (figure,) = compared(plan, COSTS)["figures"]
    # In the time of 50 plain steps the faster recipe has finished its 100; later there is nothing of it.
    assert figure["at_equal_time"]["image+label"][0]["mean"] == pytest.approx(4)
    assert figure["at_equal_time"]["image+label"][1] is None
    assert [value["mean"] for value in figure["at_equal_time"]["image"]] == [7, 3]


def test_why_a_figure_is_missing_is_not_told(plan):
    write(plan, refused={"frechet_distance": "of 8 samples would mean nothing"})
    assert compared(plan, COSTS)["refused"] == [
        "frechet_distance of image+label: of 8 samples would mean nothing",
        "frechet_distance of image: of 8 samples would mean nothing",
    ]


def test_a_figure_that_is_not_finite_ends_the_comparison_or_is_left_out_without_a_word(plan, monkeypatch):
    monkeypatch.setitem(RUNS, ("image+label", 1), [None, 2.0])
    write(plan)
    with pytest.raises(UserError, match=r"distance of image\+label: it is not finite after 50 steps with seed 1"):
        compared(plan, COSTS)  # there is no other figure


def test_a_model_that_was_judged_in_fewer_directions_counts_as_judged(plan, registry):
    recipe = plan.recipes["image+label"]
    unseen = load_recipe(CLONE / "recipes" / "image+label.toml", registry, ["modalities.label.curve=none"])
    two = attrs.evolve(plan, recipes={"a": recipe, "b": recipe})
    three = attrs.evolve(plan, recipes={"a": recipe, "b": recipe, "c": unseen})  # which cannot be given a label
    assert two.common() == three.common()
    assert how_judged(two) != how_judged(three)


def test_nothing_in_common_is_reported_as_a_comparison(plan):
    write(plan, refused={"frechet_distance": "too few"}, figures=False)
    with pytest.raises(UserError, match=r"no figure of what the recipes share, image\n.*too few"):
        compared(plan, COSTS)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_figures_end_in_a_traceback(plan, text):
    write(plan)
    plan.entries()[0].folder.joinpath("judged", "step-50.json").write_text(text)
    with pytest.raises(UserError, match=r"step-50.json: is damaged\n.*judged again"):
        compared(plan, COSTS)
