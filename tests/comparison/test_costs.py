"""Times of steps against each other, kept and taken again."""

import json

import pytest
import torch

from mtdiff_core.benchmark.subjects import Opened
from mtdiff_core.benchmark.timing import Measured
from mtdiff_core.comparison import costs
from mtdiff_core.comparison.costs import FILE, costs_of, step_costs
from mtdiff_core.comparison.plan import Plan
from mtdiff_core.data.batches import Batch
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.workshop import silent
from mtdiff_core.recipe.loading import load_recipe
from tests.conftest import CLONE

SMALL = [
    "data.size=8", "data.batch_size=4", "backbone.channels=8", "backbone.multipliers=[1,2]", "backbone.attention=[]",
    "backbone.head_channels=8",
]  # fmt: skip


@pytest.fixture
def plan(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "ROUNDS", 3)

    def make(*settings, reference="image", **changes):
        own = {
            "image": ("image", []),
            "joint": ("image+label", []),
            "large": ("image", ["backbone.channels=32"]),
        }
        labels = [reference, *(label for label in own if label != reference)]
        recipes = {
            label: load_recipe(
                CLONE / "recipes" / f"{own[label][0]}.toml", registry, [*SMALL, *settings, *own[label][1]]
            )
            for label in labels
        }
        return Plan(recipes=recipes, seeds=[0], shares=[1.0], metrics={}, num=2, folder=tmp_path, **changes)

    return make


@pytest.fixture
def timed(registry):
    """Costs of a plan, and what was timed for it."""

    def run(plan):
        titles = []

        def progress(title, total):
            titles.append(title)
            return silent(title, total)

        return step_costs(plan, registry, torch.device("cpu"), progress), [t for t in titles if "training step" in t]

    return run


def test_a_ratio_is_of_medians_instead_of_rounds():
    found = costs_of("plain", {"joint": {"own": [2.0, 20.0, 3.0], "reference": [1.0, 10.0, 1.0]}})
    assert found["joint"]["ratio"]["median"] == 2
    assert found["joint"]["seconds_per_step"]["median"] == 3
    assert found["plain"] == {
        "seconds_per_step": {"median": 1.0, "interval": [1.0, 10.0], "each": [1.0, 10.0, 1.0]},
        "ratio": {"median": 1.0, "interval": [1.0, 1.0], "each": [1.0, 1.0, 1.0]},
    }


def test_a_batch_is_on_the_device_before_a_step_looks_at_it_or_its_way_there_is_not_timed(plan, registry, monkeypatch):
    moved, to = [], Batch.to

    def noted(batch, device):
        moved.append(batch)
        return to(batch, device)

    entry = plan().entries()[0]
    monkeypatch.setattr(costs, "find_checkpoint", lambda _: None)
    monkeypatch.setattr(Batch, "to", noted)
    step = costs._training_step(entry, registry, torch.device("cpu"), silent)
    assert moved == []
    step()
    assert moved == [step.batch]


def parameters(step):
    return sum(parameter.numel() for parameter in step.trainer.model.parameters())


def test_another_network_than_the_recipes_own_is_timed(plan, timed, registry, monkeypatch):
    def weighed(subjects, rounds, synchronise, advance):
        return {one.name: Measured(each=[parameters(one.run)] * rounds) for one in subjects}

    monkeypatch.setattr(costs, "interleaved", weighed)
    one = plan()
    found, titles = timed(one)
    assert [title.split()[4] for title in titles] == ["joint", "large"]
    assert list(found) == ["image", "joint", "large"]
    for label, recipe in one.recipes.items():
        expected = Opened.of(recipe, registry, torch.device("cpu"), silent).trainer().model
        count = sum(parameter.numel() for parameter in expected.parameters())
        assert found[label]["seconds_per_step"]["each"] == [count] * len(found[label]["seconds_per_step"]["each"])
        assert found[label]["ratio"]["median"] == count / found["image"]["seconds_per_step"]["median"]


def test_what_was_timed_is_timed_again_or_belongs_to_another_reference(plan, timed):
    found, _ = timed(plan())
    assert timed(plan()) == (found, [])
    _, titles = timed(plan(reference="joint"))
    assert [title.split()[4] for title in titles] == ["image", "large"]


@pytest.mark.parametrize("text", ["{", "[]", '{"reference": 1}'])
def test_damaged_times_end_in_a_traceback(plan, timed, text):
    one = plan()
    (one.folder / FILE).write_text(text)
    with pytest.raises(UserError, match=r"costs.json: is damaged"):
        timed(one)
    assert (one.folder / FILE).read_text() == text


def test_times_of_another_machine_are_taken_for_those_of_this_one(plan, timed):
    timed(plan())
    file = plan().folder / FILE
    other = json.loads(file.read_text())
    other["hardware"]["device"] = "abacus"
    file.write_text(json.dumps(other))
    assert len(timed(plan())[1]) == 2
