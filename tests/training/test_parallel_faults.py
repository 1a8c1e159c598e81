"""What goes wrong on one of several processes: the others say so and end, or all of them do as one process would."""

import math
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtdiff_core.data.loading import Preparation
from tests.conftest import TINY
from tests.crashes import Launcher
from tests.processes import PATIENCE, Processes, run_together
from tests.training.test_parallel import arguments, assert_same_run, metrics, wait_for_lines

STEPS = 10
BAD = (3, 6, 7, 8)  # batches, by number from 1
ROW = 12  # of each, which the second of two processes has
SETTINGS = (
    f"train.steps={STEPS}", "train.checkpoint_every=2", "train.max_skipped=3", "modalities.label.dropout=0",
    "sample.num=4",
)  # fmt: skip


@contextmanager
def bad_row():
    """Some batches hold a picture that is not finite."""
    real = Preparation.batch

    def batch(self, number, samples, indices):
        made, rows = real(self, number, samples, indices), self.share.rows
        if number in BAD and rows.start <= ROW < rows.stop:
            made.values["image"][ROW - rows.start] = math.nan
        return made

    Preparation.batch = batch
    yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


def told(text):
    return [line for line in text.splitlines() if "left out" in line or "not finite" in line or "going back" in line]


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The run of one process whose batches are as bad, and what it said of it."""
    out = tmp_path_factory.mktemp("alone") / "run"
    (said,) = Launcher(recipe, SETTINGS, inside=bad_row).finish(out)
    return out, told(said)


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_what_is_not_finite_on_one_process_is_left_out_by_it_alone(recipe, alone, tmp_path, way):
    out, said_alone = alone
    assert sum("left out: modality 'image': its squared error of v is nan" in line for line in said_alone) >= 4
    assert sum("going back to step 4" in line for line in said_alone) == 1
    both = Launcher(recipe, (*SETTINGS, f"train.parallel={way}"), count=2, inside=bad_row)
    said, other = both.finish(tmp_path / "run")
    assert told(said) == said_alone
    assert other == ""
    assert metrics(tmp_path / "run")[-1]["skipped_steps"] >= 4
    assert_same_run(out, tmp_path / "run", STEPS)


def test_a_process_that_hangs_keeps_the_others_waiting_for_hours(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_PATIENCE", "20")
    together = Processes(2, tmp_path, *arguments(recipe, "run", "train.steps=500", "train.grid_every=0"))
    wait_for_lines(tmp_path / "run/metrics.jsonl", 3)
    together.all[1].send_signal(signal.SIGSTOP)
    try:
        _, said = together.all[0].communicate(timeout=PATIENCE)
    finally:
        for process in together.all:
            process.kill()
            process.communicate()
    assert together.all[0].returncode == 2
    assert said.count("process 0 of 2: another process of this run does not answer") == 1
    assert "if a step may take more than 20 seconds, set MTDIFF_PATIENCE" in said
    assert "--resume" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("patience", ["0", "ten"])
def test_a_patience_that_is_no_number_of_seconds_is_not_refused(mtdiff, tiny, monkeypatch, patience):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MTDIFF_PATIENCE", patience)
    code, _, errors = mtdiff("run", tiny, "--out", "run")
    assert code == 2
    assert f"MTDIFF_PATIENCE: '{patience}' is no whole number from 1 up\n  set it to seconds, or unset it" in errors


def ranks(launcher):
    """Process ids of what torchrun has started, by rank."""
    found = {}
    for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found.update((int(one.removeprefix("RANK=")), int(pid)) for one in environment if one.startswith("RANK="))
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no other way to find the processes")
def test_a_process_that_dies_under_torchrun_takes_the_run_with_it(recipe, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mtdiff"]
    command = arguments(recipe, "run", "train.steps=12", "train.checkpoint_every=2", "train.grid_every=0")
    launcher = subprocess.Popen([*torchrun, *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_lines(tmp_path / "run/metrics.jsonl", 5)
    os.kill(ranks(launcher)[0], signal.SIGKILL)
    _, said = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1
    ours, _, of_torchrun = said.partition("Traceback")
    assert ours.count("error: process 1 of 2: another process of this run has ended") == 1, said
    assert "ChildFailedError" in of_torchrun
    (again,) = run_together(1, tmp_path, *command, "--resume")
    assert "going on after step" in again
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 13))
