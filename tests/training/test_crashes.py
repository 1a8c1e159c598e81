"""Runs killed at random moments, also amid a save, and gone on with until they end: as if nothing had happened."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.registry import Registry
from mtdiff_core.training import checkpoint
from mtdiff_core.training.run import run_recipe
from tests.conftest import TINY

STEPS = 20
SETTINGS = (
    f"train.steps={STEPS}", "train.checkpoint_every=3", "train.keep_checkpoints=2", "train.grid_every=8",
    "train.ema_snapshots=5", "modalities.image.flip=true", "data.keep.label=0.5", "train.impute_from=4",
)  # fmt: skip
KILLS = 2  # of each run
SLOW = 0.01  # seconds that the disk takes for a file, so that a good part of the time something is being saved
PATIENCE = 120  # seconds until a process of ours counts as hung


def train(recipe, out, settings):
    """What ``mtdiff run --resume`` does, in a process that may be killed."""
    real = checkpoint._write_synced

    def write(path, data):
        time.sleep(SLOW)
        real(path, data)

    checkpoint._write_synced = write
    registry = Registry()
    loaded = load_recipe(recipe, registry, settings)
    begun = (out / "recipe.toml").exists()
    if not begun:  # killed before there was a run to go on with
        shutil.rmtree(out, ignore_errors=True)
    run_recipe(loaded, registry, torch.device("cpu"), out, begun, lambda *_: lambda _: None)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mtdiff_core.training.run", "mtdiff_tensorboard.events", train.__module__])
    return context


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def whole(processes, recipe, tmp_path_factory):
    """The run that was never killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(processes, recipe, out)
    return out


def begin(processes, recipe, out, *settings):
    process = processes.Process(target=train, args=(recipe, out, (*SETTINGS, *settings)))
    process.start()
    return process


def finish(processes, recipe, out, *settings):
    process = begin(processes, recipe, out, *settings)
    process.join(PATIENCE)
    assert process.exitcode == 0


def logged(out):
    try:
        return len((out / "metrics.jsonl").read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def being_saved(out):
    return [path for folder in ("checkpoints", "averages") for path in (out / folder).glob(".step-*.partial")]


def kill(process, out, moment):
    """Kill a run after so many more lines of its log, then once it saves something if so said, then a moment later."""
    lines, amid_save, delay = moment
    goal, deadline = min(logged(out) + lines, STEPS - 3), time.monotonic() + PATIENCE
    while logged(out) < goal or (amid_save and not being_saved(out)):
        assert process.exitcode is None, "ended before it was killed"
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL, "ended before it was killed"
    return bool(being_saved(out))


def next_second():
    """TensorBoard's files carry the second they were begun in, and are read in that order."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.02)


def saved(out):
    """Weights, averages, optimizer and samples, byte by byte."""
    files = [*(out / "checkpoints").rglob("*.safetensors"), *(out / "averages").rglob("*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "samples" / "samples.safetensors"]}


def log_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def curves(out):
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    scalars["images_per_second"] = [step for step, _ in scalars["images_per_second"]]
    return scalars, [event.step for event in events.Images("samples")]


def assert_same_run(one: Path, other: Path):
    mine, its = saved(one), saved(other)
    assert mine.keys() == its.keys()
    assert [name for name in mine if mine[name] != its[name]] == []
    assert [line["step"] for line in log_of(other)] == list(range(1, STEPS + 1))
    assert log_of(one) == log_of(other)
    assert curves(one) == curves(other)


def crash(processes, recipe, out, seed, *settings):
    """A run that is killed and resumed; says which kills came amid a save."""
    draw = random.Random(seed)
    amid = []
    for _ in range(KILLS):
        process = begin(processes, recipe, out, *settings)
        amid_save = draw.random() < 0.5
        # To the next checkpoint and past it, so that the run gets on
        moment = draw.randrange(8 if amid_save else 9), amid_save, draw.uniform(0, SLOW if amid_save else 0.15)
        amid.append(kill(process, out, moment))
        next_second()
    finish(processes, recipe, out, *settings)
    return amid


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_ends_elsewhere(processes, recipe, whole, tmp_path, workers):
    crash(processes, recipe, tmp_path / "run", workers, f"data.workers={workers}")
    assert_same_run(whole, tmp_path / "run")


def test_a_run_killed_amid_a_save_ends_elsewhere(processes, recipe, whole, tmp_path):
    out = tmp_path / "run"
    for delay in (0, SLOW):
        kill(begin(processes, recipe, out), out, (4, True, delay))
        next_second()
    finish(processes, recipe, out)
    assert not being_saved(out)
    assert_same_run(whole, out)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(100 // KILLS))
def test_a_run_killed_at_one_of_a_hundred_moments_ends_elsewhere(processes, recipe, whole, tmp_path, seed):
    amid = crash(processes, recipe, tmp_path / "run", 1000 + seed, f"data.workers={2 * (seed % 4 == 0)}")
    print(f"\nkilled {len(amid)} times, {sum(amid)} amid a save", end=" ")
    assert_same_run(whole, tmp_path / "run")
