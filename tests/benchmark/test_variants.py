"""Ways to compute a training step: one that fails is a row, and hurts no other."""

import time

import pytest
import torch

from mtdiff_core.benchmark.subjects import TrainingStep
from mtdiff_core.benchmark.variants import VARIANTS, variants_json


@pytest.fixture
def measured(open_tiny):
    def call(rounds=2):
        opened, done = open_tiny(), []
        batch = next(iter(opened.trainer().loader))
        return variants_json(opened, batch, VARIANTS, rounds, lambda: None, done.append), sum(done)

    return call


def test_a_variant_that_does_not_work_here_stops_the_others_or_is_passed_over(measured, monkeypatch):
    def refuse(_loss):
        raise RuntimeError("no C compiler\nand a hundred more lines")

    monkeypatch.setattr(torch, "compile", refuse)
    rows, done = measured()
    assert done == len(VARIANTS) + 2
    assert [row["name"] for row in rows] == [variant.name for variant in VARIANTS]
    for row in rows:
        failed = row.get("compile", False)
        assert row["error"] == ("RuntimeError: no C compiler" if failed else "")
        assert (row["seconds"] is None) == (row["speedup"] is None) == failed
    assert rows[0]["speedup"]["each"] == [1.0, 1.0]
    assert rows[2]["speedup"]["each"] == pytest.approx(
        [one / other for one, other in zip(rows[0]["seconds"]["each"], rows[2]["seconds"]["each"], strict=True)]
    )


def test_variants_are_computed_alike(measured, monkeypatch):
    seen = []
    ordinary = TrainingStep.__call__

    def watched(self):
        weight = self.trainer.model.backbone.middle[0].conv_in.weight
        layout = weight.is_contiguous(memory_format=torch.channels_last)
        seen.append((self.trainer.options.precision, self.trainer.options.compile, layout))
        ordinary(self)

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    monkeypatch.setattr(torch, "compile", lambda loss: loss)
    measured(rounds=1)
    firsts = seen[: 2 * len(VARIANTS) : 2]  # of two steps each
    assert firsts == [
        ("fp32", False, True),
        ("fp32", False, False),
        ("bf16", False, True),
        ("fp32", True, True),
        ("bf16", True, True),
    ]


def test_a_variant_that_is_far_too_slow_is_timed_again_and_again(measured, monkeypatch, clock):
    steps = []

    def step(self):
        steps.append(self.trainer.options.precision)
        clock.spend(10.0 if steps[-1] == "bf16" else 2.0)

    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr(torch, "compile", lambda loss: loss)
    monkeypatch.setattr(time, "perf_counter", clock)
    rows, done = measured(rounds=5)
    slow = [row for row in rows if row["precision"] == "bf16"]
    assert [(row["seconds"]["each"], row["speedup"]["each"], row["error"]) for row in slow] == [([10.0], [0.2], "")] * 2
    assert steps.count("bf16") == 2 * len(slow)
    assert done == len(VARIANTS) + 5
    assert all(len(row["seconds"]["each"]) == len(row["speedup"]["each"]) == 5 for row in rows if row not in slow)
