"""What tests of timing share: the tiny recipe, opened, and a clock that goes on when it is told to."""

from importlib import metadata

import pytest
import torch

from mtdiff_core.benchmark.subjects import Opened
from mtdiff_core.interfaces.workshop import silent
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.registry import Registry

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_tiny(tiny):
    """The tiny recipe with some keys set, opened."""

    def opened(*overrides):
        registry = Registry([point for point in metadata.entry_points(group="mtdiff") if point.name != "tensorboard"])
        return Opened.of(load_recipe(tiny, registry, overrides), registry, CPU, silent)

    return opened
