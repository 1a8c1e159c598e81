"""Runs of two processes, one or both killed, and gone on with until they end: as if nothing had happened."""

import random

import pytest

from tests.conftest import TINY
from tests.crashes import SETTINGS, SLOW, Launcher, assert_same_run, being_saved, draw_moment, logged

WAYS = {
    "ddp": ("train.parallel=ddp", "train.accumulate=2", "train.impute_from=4"),
    "fsdp2": ("train.parallel=fsdp2", "train.accumulate=2"),
}
KILLED = ((0,), (1,), (0, 1))
ENDED = "another process of this run has ended"
SILENT, UNMET = "another process of this run does not answer", "does not find the others"  # said only as they start


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def launch(recipe):
    return lambda way: Launcher(recipe, (*SETTINGS, *WAYS[way]), count=2)


@pytest.fixture(scope="module")
def whole(launch, tmp_path_factory):
    """Runs that were never killed, once for each way."""
    runs = {}

    def run(way):
        if way not in runs:
            runs[way] = tmp_path_factory.mktemp(way) / "run"
            launch(way).finish(runs[way])
        return runs[way]

    return run


def kill(started, moment, ranks):
    """Kill processes of a run; the others say so in one sentence. Says whether that came amid a save."""
    before = logged(started.out)
    others, amid = started.kill(moment, ranks)
    messages = (ENDED,) if logged(started.out) > before else (ENDED, SILENT, UNMET)
    assert len(others) == 2 - len(ranks)
    for said in others:
        assert sum(said.count(message) for message in messages) == 1, said
        assert said.count("error:") == 1, said
        assert ("--resume" in said) == (UNMET not in said), said
        assert "Traceback" not in said
    return amid


@pytest.mark.parametrize("ranks", [(0,), (1,)])
def test_a_run_of_two_one_of_which_is_killed_ends_elsewhere(launch, whole, tmp_path, ranks):
    out, launcher = tmp_path / "run", launch("ddp")
    kill(launcher.begin(out), (5, ranks == (0,), SLOW), ranks)  # after a checkpoint
    launcher.finish(out)
    assert not being_saved(out)
    assert_same_run(whole("ddp"), out)


@pytest.mark.crash
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_a_run_of_two_killed_at_one_of_twenty_moments_ends_elsewhere(launch, whole, tmp_path, way, seed):
    out, launcher, draw = tmp_path / "run", launch(way), random.Random(seed)
    amid = [kill(launcher.begin(out), draw_moment(draw), draw.choice(KILLED)) for _ in range(2)]
    launcher.finish(out)
    print(f"\nkilled {len(amid)} times, {sum(amid)} amid a save", end=" ")
    assert_same_run(whole(way), out)
