"""The pictures of the process can be drawn again, and show what docs/concepts.md says of them."""

import importlib.util

import pytest
import torch

from tests.conftest import CLONE

SCRIPT = CLONE / "docs" / "pictures" / "make_process.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_process", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(script):
    return script.world()


def chance(script, world, curve, time):
    """The probability of the right label in the mean of some test digits."""
    images, labels = world.held_out.values["image"][:50].double(), world.held_out.values["label"][:50]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    encodings = world.encodings(images, labels)
    return script._chance(world, world.with_curve(curve), encodings, labels, time, noise)


def test_the_world_has_another_number_of_digits_than_the_page_says(world):
    assert "1,500 training digits" in (CLONE / "docs" / "concepts.md").read_text()
    assert len(world.images) == 1500


def test_labels_are_decided_in_another_order_than_the_page_shows(script, world):
    chances = [chance(script, world, curve, 0.96) for curve in ("none", "proportional", "fading", "early")]
    assert chances == sorted(chances)
    assert chances[0] < 0.2
    assert chances[-1] > 0.8
    assert chance(script, world, "none", 0.1) > 0.9


def test_a_picture_cannot_be_drawn_again(script, world, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setattr(script, "JUDGED", 5)
    monkeypatch.setattr(script, "world", lambda: world)
    script.main()
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(drawn) == {path.name for path in SCRIPT.parent.glob("process-*")}
    for name, data in drawn.items():
        assert data.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml"), name
