"""What docs/method.md says of the code is so."""

import re

from tests.conftest import CLONE
from tests.diffusion.test_bound import EXACT_NLL, ROWS

PAGE = (CLONE / "docs" / "method.md").read_text()


def test_a_checked_figure_is_another_than_the_test_has():
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert [tuple(map(float, row)) for row in rows] == [figures for _, figures in ROWS.values()]
    assert f"likelihood is {EXACT_NLL} nats" in PAGE


def test_a_file_that_is_named_is_not_there():
    named = re.findall(r"`((?:mtdiff_core|tests)/[\w/.]*)`", PAGE)
    assert len(named) > 5
    assert [path for path in named if not (CLONE / path).exists()] == []
