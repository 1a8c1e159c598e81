"""Streams of random numbers: what they are made of, and what they leave alone."""

import pytest
import torch

from mtdiff_core.randomness import generator, global_stream


def test_a_global_stream_is_another_than_its_generator_or_leaves_a_trace():
    before = torch.get_rng_state()
    with global_stream(3, "dropout", 7):
        drawn = torch.rand(5)
    assert drawn.equal(torch.rand(5, generator=generator(3, "dropout", 7)))
    assert torch.get_rng_state().equal(before)


@pytest.fixture
def asked(monkeypatch):
    """What was asked of which GPU, of a machine that seems to have four, of which the third is the current one."""
    found = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: found.append("current") or 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": found.append(("keep", device)))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda": found.append(("restore", device)))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: found.append("seed"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: found.append("seed all"))
    return found


def test_a_process_wakes_up_the_gpus_of_others(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with global_stream(3, "dropout", 7):
        torch.rand(1)
    assert asked == ["current", ("keep", 2), "seed", ("restore", 2)]


def test_a_process_that_computes_on_the_cpu_wakes_up_a_gpu(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with global_stream(3, "dropout", 7):
        torch.rand(1)
    assert asked == ["seed"]  # which waits until a GPU is used
