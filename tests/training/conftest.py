"""What tests of training share: a trainer of the tiny recipe, and runs in processes of their own."""

import time
from importlib import metadata

import pytest
import torch

from mtdiff_core.assembly import assemble, open_training_data
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.registry import Registry
from mtdiff_core.training.run import loader_of, run_info
from mtdiff_core.training.run_directory import RunDirectory
from mtdiff_core.training.trainer import Trainer
from tests.processes import PATIENCE, Started, next_second


@pytest.fixture(scope="session")
def quiet_registry():
    """A registry of its own, without TensorBoard."""
    return Registry([point for point in metadata.entry_points(group="mtdiff") if point.name != "tensorboard"])


@pytest.fixture
def make_trainer(tiny, quiet_registry, tmp_path):
    """A trainer of the tiny recipe with some keys set, such as ``"train.steps=8"``, in a folder of its own."""

    def make(*overrides, folder="run", draw_grid=None):
        recipe = load_recipe(tiny, quiet_registry, overrides)
        samples = open_training_data(recipe)
        directory = RunDirectory(tmp_path / folder)
        directory.checkpoints.mkdir(parents=True, exist_ok=True)
        experiment = assemble(recipe, samples.fields)
        loader = loader_of(recipe, samples, experiment.sources)
        info = run_info(recipe, directory)
        return Trainer(experiment, loader, directory, info, quiet_registry, torch.device("cpu"), draw_grid)

    return make


@pytest.fixture
def run_until(tmp_path):
    """Start ``mtdiff run`` and send it, or also its workers, a signal once it has logged so many steps."""

    def call(*arguments, out, logged, number, to_all=False):
        process = Started("run", *arguments, "--out", out, folder=tmp_path)
        metrics = tmp_path / out / "metrics.jsonl"
        deadline = time.monotonic() + PATIENCE
        while not metrics.exists() or len(metrics.read_text().splitlines()) < logged:
            assert process.returncode is None, f"ended before it was stopped: {process.communicate()}"
            assert time.monotonic() < deadline, "logged nothing"
            time.sleep(0.005)
        process.send_signal(number, to_all=to_all)
        _, errors = process.communicate()
        next_second()
        return process.returncode, errors

    return call
