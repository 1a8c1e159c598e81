"""What ends a run from outside leaves one sentence and a checkpoint to go on from."""

import os
import signal

import pytest
import torch

from mtdiff_core.data.loading import worker_faults_explained
from mtdiff_core.data.samples import TensorSamples


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


def test_other_faults_of_ours_are_taken_for_a_worker_s_death():
    with pytest.raises(RuntimeError, match="shapes differ"), worker_faults_explained():
        raise RuntimeError("shapes differ")
