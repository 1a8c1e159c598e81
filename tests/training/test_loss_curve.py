"""The loss curve of a tiny recipe against the stored one: whoever changes the numerics sees it here, and says why.

To store a new curve: python -m tests.training.test_loss_curve
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.registry import Registry
from mtdiff_core.training.run import run_recipe
from tests.conftest import TINY

STORED = Path(__file__).with_name("loss_curve.json")
SETTINGS = ("train.steps=20", "train.checkpoint_every=20", "sample.num=1")
# Processors differ in the order of their sums; over 20 steps that stays far below any real change.
TOLERANCE = 1e-3


def curve(folder):
    """Losses of each step, by modality."""
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY)
    registry = Registry()
    run = run_recipe(
        load_recipe(recipe, registry, SETTINGS),
        registry,
        torch.device("cpu"),
        folder / "run",
        resume=False,
        sampling_progress=lambda _title, _steps: lambda _done: None,
    )
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in ("loss/image", "loss/label")}


def test_the_loss_curve_has_moved(tmp_path):
    stored = json.loads(STORED.read_text())
    found = curve(tmp_path)
    for name, values in stored.items():
        assert found[name] == pytest.approx(values, rel=TOLERANCE), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        STORED.write_text(json.dumps(curve(Path(place)), indent=1) + "\n")
