"""What ends a run from outside leaves one sentence and a checkpoint to go on from."""

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.data.workers import worker_faults_explained
from tests.processes import PATIENCE, Started


def test_a_worker_that_dies_takes_the_run_with_it_or_is_told_with_a_traceback(mtdiff, tiny, tmp_path, monkeypatch):
    settings = ["--set", "data.workers=2", "--set", "train.steps=12", "--set", "train.checkpoint_every=1"]
    assert mtdiff("run", tiny, "--out", "whole", *settings)[0] == 0
    getitem, asked = TensorSamples.__getitem__, []

    def dying(self, index):
        asked.append(index)  # in a worker: its own list
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id == 1 and len(asked) > 3 * 16:
            os.kill(os.getpid(), signal.SIGKILL)
        return getitem(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(TensorSamples, "__getitem__", dying)
        code, _, errors = mtdiff("run", tiny, "--out", "run", *settings)
    assert code == 2, errors
    assert "data.workers: a process that loads data has died (DataLoader worker" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    saved = (tmp_path / "run/checkpoints/latest").read_text()
    assert saved in {f"step-{step}\n" for step in range(1, 12)}
    code, _, errors = mtdiff("run", tiny, "--out", "run", "--resume", *settings)
    assert code == 0, errors
    for part in ("model", "ema", "optimizer"):
        one, other = (tmp_path / run / f"checkpoints/step-12/{part}.safetensors" for run in ("whole", "run"))
        assert one.read_bytes() == other.read_bytes()


@contextmanager
def by_fork():
    multiprocessing.set_start_method("fork", force=True)
    yield


@contextmanager
def by_forkserver():
    multiprocessing.set_start_method("forkserver", force=True)
    yield


def session(leader):
    """Process ids of a session, but for those that are dead and whose parents have not heard of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, its = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(its) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no other way to find the processes")
@pytest.mark.parametrize(("start", "count"), [(by_fork, 3), (by_forkserver, 4)])  # itself and two workers
def test_workers_outlive_a_run_that_is_killed(tiny, tmp_path, start, count):
    settings = ["--set", "data.workers=2", "--set", "train.steps=500", "--set", "train.grid_every=0"]
    process = Started("run", tiny, "--out", "run", *settings, folder=tmp_path, inside=start)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.returncode is None, process.communicate()
        assert time.monotonic() < deadline, "logged nothing"
        time.sleep(0.01)
    assert len(session(process.pid)) == count
    process.kill()
    process.communicate()
    while left := session(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"still there: {left}")
        time.sleep(0.05)


def test_other_faults_of_ours_are_taken_for_a_worker_s_death():
    with pytest.raises(RuntimeError, match="shapes differ"), worker_faults_explained():
        raise RuntimeError("shapes differ")
