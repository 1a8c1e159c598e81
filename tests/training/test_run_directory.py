"""Which run directory a run gets, and which one it may go on with."""

import re

import pytest
import torch

from mtdiff_core import numbering
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.training.run_directory import create_run_directory, find_run_directory


@pytest.fixture
def recipe(tiny, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load_recipe(tiny, registry)


@pytest.fixture
def create(recipe, registry):
    return lambda out=None: create_run_directory(recipe, out, registry, torch.device("cpu"))


def test_the_newest_run_is_the_one_with_the_largest_number_and_not_the_last_in_the_alphabet(recipe, registry, create):
    numbers = [int(create().path.name) for _ in range(11)]
    assert numbers == list(range(1, 12))
    assert find_run_directory(recipe, None, registry).path.name == "11"


def test_the_number_of_a_run_that_was_removed_last_is_taken_again_and_folders_of_other_names_do_not_count(create):
    create().path.with_name("notes").mkdir()
    create().path.rename("elsewhere")
    assert create().path.name == "2"


def test_two_commands_that_begin_at_one_moment_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numbering, "numbers_in", lambda folder: [4])  # what both have seen
    assert [numbering.make_next_number(tmp_path / "runs").name for _ in range(3)] == ["5", "6", "7"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["5", "6", "7"]


def test_a_run_from_before_an_option_existed_goes_on_with_the_options_default(recipe, registry, create):
    run = create()
    older = re.sub(r"gradient_clip = .*\n", "", run.recipe.read_text())
    assert older != run.recipe.read_text()
    run.recipe.write_text(older)
    assert find_run_directory(recipe, None, registry) == run


def test_a_recipe_that_differs_is_refused_with_every_key_that_differs(tiny, registry, create):
    run = create()
    overrides = ["seed=3", "space.aggregator=blocks", "modalities.label.weight=0.5"]
    with pytest.raises(UserError) as raised:
        find_run_directory(load_recipe(tiny, registry, overrides), run.path, registry)
    different = ("modalities.label.curve", "modalities.label.log_snr_shift", "modalities.label.weight", "seed")
    assert f"different: {', '.join(different)}, space.aggregator" in str(raised.value)
    assert f"mtdiff run {run.recipe} --resume --out {run.path}" in str(raised.value)
