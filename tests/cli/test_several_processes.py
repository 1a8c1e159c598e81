"""Sampling and judging on several processes: the same as on one, with the work shared out."""

import json
import shutil

import attrs
import pytest
import torch

from mtdiff_core.directions import direction
from mtdiff_core.evaluation.evaluation import Evaluation, EvaluationOptions
from mtdiff_core.generation import Settings
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.sampling_job.formats import FORMATS
from mtdiff_core.sampling_job.given import read_given
from mtdiff_core.sampling_job.job import SamplingJob
from mtdiff_core.training.run import load_trained_model
from mtdiff_core.world import World
from tests.conftest import TINY
from tests.processes import Processes, run_together


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run, ``run``."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "tiny.toml").write_text(TINY)
    small = ["--set", "sample.batch_size=10", "--set", "train.steps=2"]
    run_together(1, folder, "run", "tiny.toml", "--out", "run", *small)
    return folder


@attrs.frozen
class Deaf(World):
    """One process of two whose other one never says anything; what it would be told is kept."""

    size: int = 2
    told: list = attrs.field(factory=list)

    def gather(self, items):
        self.told.append(items)
        return [items]

    def from_main(self, make):
        return make()

    def wait(self):
        pass


def job(folder, out, world, registry):
    trained = load_trained_model(folder / "run", registry, torch.device("cpu"))
    recipe, sources = trained.experiment.recipe, trained.experiment.sources
    given = read_given({}, direction([], recipe.modalities), sources, None, 105, 105, 0)
    modalities = {name: source.modality for name, source in sources.items()}
    return SamplingJob(
        model=trained.experiment.model,
        modalities=modalities,
        given=given,
        settings=Settings.of(recipe.sample, recipe.diffusion, 0),
        files=FORMATS["safetensors"](out, modalities, {}),
        world=world,
    )


def parts(job):
    return {number for number in range(len(job.batches)) if job.files.part(number).exists()}


def test_a_process_makes_batches_of_another_or_puts_an_unfinished_job_together(folder, registry, tmp_path):
    helper = job(folder, tmp_path, Deaf(1), registry)
    assert helper.run(lambda steps: None) is None
    assert parts(helper) == {7, 9}  # the first seven are in the picture
    assert not helper.files.path.exists()
    main = job(folder, tmp_path, Deaf(0), registry)
    assert main.run(lambda steps: None).direction == main.given.direction
    assert main.files.path.exists()
    assert main.grid.exists()


def test_samples_of_two_processes_are_other_ones(folder):
    for count, out in ((1, "one"), (2, "two")):
        said = run_together(count, folder, "sample", "run", "--num", "105", "--out", out)
        assert [("joint" in one) for one in said] == [True, False][:count]
    for file in ("samples.safetensors", "grid.png"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()
    assert sorted(path.name for path in (folder / "two").iterdir()) == ["grid.png", "job.json", "samples.safetensors"]


def test_a_folder_that_is_taken_is_written_to_by_the_others(folder):
    (folder / "taken").mkdir()
    (folder / "taken" / "mine").touch()
    codes, said = Processes(2, folder, "sample", "run", "--num", "4", "--out", "taken").finish()
    assert codes[0] == 2
    assert codes[1] != 0
    assert "is not an empty folder" in said[0]
    assert [path.name for path in (folder / "taken").iterdir()] == ["mine"]


def test_a_process_samples_what_another_judges(folder, registry):
    trained = load_trained_model(folder / "run", registry, torch.device("cpu"))
    recipe = trained.experiment.recipe
    options = EvaluationOptions(
        metrics={},
        directions=[direction([], recipe.modalities)],
        num=25,
        settings=attrs.evolve(Settings.of(recipe.sample, recipe.diffusion, 0), batch_size=10),
        bound_steps=8,
        bound_calls=4,
        bound_num=70,
    )
    world = Deaf(1)
    Evaluation(trained, options, Workshop(torch.device("cpu"), 0), world).run()
    sampled, none_left, bounds = world.told
    assert [len(one["label"]) for one in sampled] == [10]  # of batches of 10, 10 and 5 the second
    assert none_left == []
    assert [len(one.entries) for one in bounds] == [10, 10, 10]  # every other one of seven


def figures(run):
    found = json.loads((run / "evaluation.json").read_text())
    for one in (*found["directions"], *found["by_steps"]):
        one.pop("seconds")
    return found


def test_two_processes_judge_otherwise_than_one(folder):
    quick = ["--num", "70", "--metric", "accuracy", "--metric", "nearest_training", "--fewer-steps", "1"]
    quick += ["--bound-num", "70", "--bound-calls", "4", "--bound-steps", "20"]
    for count in (1, 2):
        run = folder / f"judged-{count}"
        shutil.copytree(folder / "run", run)
        said = run_together(count, folder, "evaluate", run.name, *quick)
        assert [bool(one.strip()) for one in said] == [True, False][:count]
    assert (folder / "judged-2" / "report.html").exists()
    one, two = (figures(folder / f"judged-{count}") for count in (1, 2))
    assert two == one
    assert [len(direction["figures"]) for direction in two["directions"]] == [1, 1, 1]
