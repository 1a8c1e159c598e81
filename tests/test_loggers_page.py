"""What docs/loggers.md shows, run as it stands."""

import csv
import inspect
import json
import os
import re
import tomllib

import pytest

from mtdiff_core.registry import hookspecs
from tests.conftest import CLONE

PAGE = (CLONE / "docs" / "loggers.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def logged(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_lifecycle_hook_is_missing_from_the_page_or_described_otherwise():
    described = re.findall(r"^\| `(mtdiff_\w+)` \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    hooks = [(name, hook) for name, hook in vars(hookspecs).items() if name.startswith("mtdiff_")]
    lifecycle = [(name, inspect.signature(hook).parameters, hook) for name, hook in hooks]
    assert described == [
        (name, ", ".join(f"`{argument}`" for argument in arguments), inspect.getdoc(hook))
        for name, arguments, hook in lifecycle
        if arguments
    ]


def test_the_example_has_more_than_twenty_lines():
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 20


def test_the_page_s_logger_loses_steps_or_writes_them_twice(mtdiff_process, tmp_path, tiny):
    ((name, module),) = tomllib.loads(PROJECT)["project"]["entry-points"]["mtdiff"].items()
    (tmp_path / f"{module}.py").write_text(CODE)
    info = tmp_path / f"{module}-1.0.dist-info"  # as pip would leave it
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mtdiff]\n{name} = {module}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def mtdiff(*arguments):
        done = mtdiff_process(*arguments, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        assert "left out" not in done.stderr

    mtdiff("run", tiny, "--out", "run", "--set", "sample.num=1")
    rows = logged(tmp_path / "run" / "log.csv")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [float(row["loss/image"]) for row in rows] == pytest.approx([line["loss/image"] for line in lines], abs=1e-5)

    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-4").rename(tmp_path / "lost")  # as if it had been stopped before
    (checkpoints / "latest").write_text("step-2\n")
    mtdiff("run", tiny, "--out", "run", "--resume", "--set", "sample.num=1")
    assert [int(row["step"]) for row in logged(tmp_path / "run" / "log.csv")] == [1, 2, 3, 4]

    mtdiff("--disable", name, "run", tiny, "--out", "other", "--set", "sample.num=1", "--set", "train.steps=1")
    assert not (tmp_path / "other" / "log.csv").exists()
