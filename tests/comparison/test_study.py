"""The study's recipes are a controlled comparison."""

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
