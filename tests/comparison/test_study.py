"""The study's recipes are a controlled comparison."""

import importlib.util
import json

import pytest

from mtdiff_core.comparison.plan import Plan, check_comparable
from mtdiff_core.recipe.loading import load_recipe
from tests.conftest import CLONE

STUDY = CLONE / "docs" / "study"
PARTS = ("digits", "scenes")


def recipes(part, registry):
    return {path.stem: load_recipe(path, registry) for path in sorted((STUDY / part).glob("*.toml"))}


@pytest.mark.parametrize("part", PARTS)
def test_recipes_differ_in_more_than_what_joins_the_image(part, registry, tmp_path):
    found = recipes(part, registry)
    plan = Plan(recipes=found, seeds=[0], shares=[1.0], metrics={}, num=2, folder=tmp_path)
    check_comparable(plan)
    assert plan.common() == ("image",)

    def shared(recipe):
        tables = recipe.to_tables()
        del tables["name"], tables["description"], tables["space"]["aggregator"]
        tables["modalities"] = tables["modalities"]["image"]
        return tables

    for recipe in found.values():
        assert shared(recipe) == shared(found["image"])


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", STUDY / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(part):
    found = [json.loads(path.read_text()) for path in sorted(STUDY.glob(f"{part}-*.json"))]
    assert found, "there are no values to draw a table from"
    return found


@pytest.mark.parametrize("part", PARTS)
def test_the_page_s_table_is_not_that_of_the_values_beside_it(draw, part):
    page = (STUDY.parent / "study.md").read_text()
    for line in draw.table(draw.joined(results(part))):
        assert line in page


def test_seeds_of_several_files_are_not_put_in_a_row(draw):
    (one, *_) = results("digits")
    other = json.loads(json.dumps(one))
    other["seeds"] = [seed + 100 for seed in one["seeds"]]
    reference = one["reference"]
    both = draw.joined([one, other])
    assert both["seeds"] == [*one["seeds"], *other["seeds"]]
    assert both["values"][reference][0] == 2 * draw.joined([one])["values"][reference][0]
    with pytest.raises(SystemExit, match="a seed is there twice"):
        draw.joined([one, one])
    other["steps"][reference][-1] += 1
    with pytest.raises(SystemExit, match="not the same comparison"):
        draw.joined([one, other])


def test_ratios_are_not_those_of_the_same_seed(draw):
    found = {"reference": "image", "values": {"image": [[4.0, 1.0]], "joint": [[2.0, 2.0]]}}
    assert draw.ratios(found, "joint") == [(pytest.approx(1.0), [0.5, 2.0])]
