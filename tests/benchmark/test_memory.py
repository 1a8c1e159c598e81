"""Peak memory, where the system tells."""

import pytest
import torch

from mtdiff_core.benchmark import memory
from mtdiff_core.benchmark.memory import peak_memory

CPU = torch.device("cpu")
MEGABYTES = 300


def fill():
    torch.ones(MEGABYTES * 2**20, dtype=torch.uint8)


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="the system does not tell")
def test_a_peak_goes_unseen_or_is_remembered_for_ever():
    before, during, after = (peak_memory(run, CPU) for run in (lambda: None, fill, lambda: None))
    assert during - before > 0.9 * MEGABYTES * 2**20
    assert during - after > 0.9 * MEGABYTES * 2**20


def test_a_system_that_does_not_tell_ends_the_benchmark(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "file")
    assert peak_memory(fill, CPU) is None
