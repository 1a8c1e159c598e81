"""Starts runs in processes that have imported everything already, kills some, and compares what is left of them."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import attrs
import safetensors.torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtdiff_core.training import checkpoint
from mtdiff_core.training.checkpoint import SHARDS
from tests.processes import PATIENCE, Processes, next_second

STEPS = 20
SETTINGS = (
    f"train.steps={STEPS}", "train.checkpoint_every=3", "train.keep_checkpoints=2", "train.grid_every=8",
    "train.ema_snapshots=5", "modalities.image.flip=true", "data.keep.label=0.5",
)  # fmt: skip
SLOW = 0.01  # seconds that the disk takes for a file, so that a good part of the time something is being saved
LOSS = 60  # seconds until a process gives up waiting for one that died before they had met
KILLED = -signal.SIGKILL


@contextmanager
def slow_disk():
    real = checkpoint._write_synced

    def write(path, data):
        time.sleep(SLOW)
        real(path, data)

    checkpoint._write_synced = write
    yield


@attrs.frozen
class Launcher:
    """Starts a recipe, or goes on with it.

    Attributes:
        recipe: The file.
        settings: What is set in it.
        count: How many processes train together.
        inside: What all of them run in: a context manager that stands in a module.
    """

    recipe: Path
    settings: tuple[str, ...] = SETTINGS
    count: int = 1
    inside: Callable = slow_disk

    def begin(self, out, *settings):
        resume = (out / "recipe.toml").exists()
        if not resume:  # killed before there was a run to go on with
            shutil.rmtree(out, ignore_errors=True)
        sets = [word for setting in (*self.settings, *settings) for word in ("--set", setting)]
        arguments = [str(self.recipe), "--out", str(out), *sets, *["--resume"] * resume]
        patience = {"MTDIFF_PATIENCE": str(LOSS)}
        return Run(out, Processes(self.count, out.parent, "run", *arguments, environment=patience, inside=self.inside))

    def finish(self, out, *settings):
        codes, said = self.begin(out, *settings).processes.finish()
        assert codes == [0] * self.count, said
        return said


@attrs.frozen
class Run:
    """A run that is under way.

    Attributes:
        out: The run directory.
        processes: What trains there.
    """

    out: Path
    processes: Processes

    def kill(self, moment, ranks=(0,)):
        """Kill some after so many more lines of the log, then once something is saved if so said, then a moment later.

        Returns:
            What the others said, and whether something was being saved.
        """
        lines, amid_save, delay = moment
        goal, deadline = min(logged(self.out) + lines, STEPS - 3), time.monotonic() + PATIENCE
        while logged(self.out) < goal or (amid_save and not being_saved(self.out)):
            is_over = any(process.returncode is not None for process in self.processes.all)
            assert not is_over, f"ended before: {self.processes.finish()}"
            assert time.monotonic() < deadline, "hangs"
            time.sleep(0.001)
        time.sleep(delay)
        for rank in ranks:
            self.processes.all[rank].kill()
        amid = bool(being_saved(self.out))
        codes, said = self.processes.finish()
        assert codes == [KILLED if rank in ranks else 2 for rank in range(len(codes))], said
        next_second()
        return [text for rank, text in enumerate(said) if rank not in ranks], amid


def draw_moment(draw):
    """When to kill: to the next checkpoint and past it, so that the run gets on."""
    amid_save = draw.random() < 0.5
    return draw.randrange(8 if amid_save else 9), amid_save, draw.uniform(0, SLOW if amid_save else 0.15)


def logged(out):
    try:
        return len((out / "metrics.jsonl").read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def being_saved(out):
    return [path for folder in ("checkpoints", "averages") for path in (out / folder).glob(".step-*.partial")]


def saved(out):
    """Weights, averages, optimizer and samples, byte by byte; of shards, whose tensors lie in any order, one by one."""
    files = [*(out / "checkpoints").rglob("*.safetensors"), *(out / "averages").rglob("*.safetensors")]
    found = {}
    for path in [*files, out / "samples" / "samples.safetensors"]:
        name, data = str(path.relative_to(out)), path.read_bytes()
        if path.parent.name == SHARDS:
            found.update((f"{name}: {key}", x.numpy().tobytes()) for key, x in safetensors.torch.load(data).items())
        else:
            found[name] = data
    return found


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
