"""Runs killed at random moments, also amid a save, and gone on with until they end: as if nothing had happened."""

import random

import pytest

from tests.conftest import TINY
from tests.crashes import SETTINGS, SLOW, Launcher, assert_same_run, being_saved, draw_moment

KILLS = 2  # of each run


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return Launcher(path, (*SETTINGS, "train.impute_from=4"))


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory):
    """The run that was never killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    launcher.finish(out)
    return out


def crash(launcher, out, seed, *settings):
    """A run that is killed and resumed; says which kills came amid a save."""
    draw = random.Random(seed)
    amid = [launcher.begin(out, *settings).kill(draw_moment(draw))[1] for _ in range(KILLS)]
    launcher.finish(out, *settings)
    return amid


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_ends_elsewhere(launcher, whole, tmp_path, workers):
    crash(launcher, tmp_path / "run", workers, f"data.workers={workers}")
    assert_same_run(whole, tmp_path / "run")


def test_a_run_killed_amid_a_save_ends_elsewhere(launcher, whole, tmp_path):
    out = tmp_path / "run"
    for delay in (0, SLOW):
        launcher.begin(out).kill((4, True, delay))
    launcher.finish(out)
    assert not being_saved(out)
    assert_same_run(whole, out)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(100 // KILLS))
def test_a_run_killed_at_one_of_a_hundred_moments_ends_elsewhere(launcher, whole, tmp_path, seed):
    amid = crash(launcher, tmp_path / "run", 1000 + seed, f"data.workers={2 * (seed % 4 == 0)}")
    print(f"\nkilled {len(amid)} times, {sum(amid)} amid a save", end=" ")
    assert_same_run(whole, tmp_path / "run")
