"""Progress of training in plain lines, where there is no terminal."""

from pathlib import Path

import pytest

from mtdiff_core.cli.console import Display
from mtdiff_core.registry.run_info import RunInfo

RUN = RunInfo(name="run", directory=Path("runs/run/1"), total_steps=40, modalities=("image",))


@pytest.fixture
def steps(capsys):
    """Lets a display be told of steps, and says which of them it showed."""

    def tell(display, *numbers):
        capsys.readouterr()
        for step in numbers:
            display.mtdiff_step_finished(RUN, step, {"loss/image": 0.5, "images_per_second": 10.0})
        lines = capsys.readouterr().err.splitlines()
        return [int(line.split("/")[0].removeprefix("step ")) for line in lines if line.startswith("step")]

    return tell


def test_more_is_shown_than_every_twentieth_or_not_the_end(steps):
    with Display() as display:
        display.mtdiff_run_started(RUN, 0)
        assert steps(display, 1, 2, 3, 4, 39, 40) == [2, 4, 39, 40]


def test_a_second_run_is_silent_until_it_is_where_the_first_one_ended(steps):
    with Display() as display:
        for number in (1, 2):
            display.mtdiff_run_started(RUN, 0)
            assert steps(display, 2, 40) == [2, 40], f"run {number}"
        display.mtdiff_run_started(RUN, 30)
        assert steps(display, 31, 32) == [32]


def test_steps_that_are_done_again_are_not_shown(steps):
    with Display() as display:
        display.mtdiff_run_started(RUN, 0)
        assert steps(display, 20) == [20]
        display.mtdiff_run_went_back(10)
        assert display.bars.tasks[0].completed == 10
        assert steps(display, 11, 12) == [12]
