"""metrics.jsonl: one strict JSON object a line, whatever happened in the step."""

import json
import math

import pytest

from mtdiff_core.training.metrics_log import MetricsLog
from mtdiff_core.training.run_directory import RunDirectory


def refuse(word):
    pytest.fail(f"{word} is no JSON")


def test_every_step_is_a_line_of_strict_json(tmp_path):
    log = MetricsLog(RunDirectory(tmp_path))
    log.mtdiff_step_finished(step=10, scalars={"loss/image": 0.123456789, "learning_rate": 2e-3})
    log.mtdiff_step_finished(step=20, scalars={"loss/image": math.nan, "learning_rate": math.inf})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"step": 10, "loss/image": 0.123457, "learning_rate": 0.002},
        {"step": 20, "loss/image": None, "learning_rate": None},
    ]
