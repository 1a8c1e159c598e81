"""The kit as a plugin author meets it: a class in a test file, run by pytest; and without pytest."""

import subprocess
import sys

TESTS = """
import torch
from mtdiff_core import DatasetSource, FieldSpec, component
from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.testing import DatasetKit


class TestDigits(DatasetKit):
    component = "digits"
    options = {"size": 8}


class TestMisspelt(DatasetKit):
    component = "digit"


@component
class Wrong(DatasetSource):
    "Not a number."

    def open(self, split):
        fields = {"number": FieldSpec(shape=(), dtype="float32")}
        return TensorSamples(fields, {"number": torch.full((10,), torch.nan)})


class TestWrong(DatasetKit):
    component = Wrong
"""


def test_pytest_finds_no_checks_or_does_not_show_what_to_mend(tmp_path):
    (tmp_path / "test_mine.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    text = done.stdout
    # where pytest sees that it runs in CI its summary repeats each message whole, elsewhere only what fits the line
    failures, summary = text.split("short test summary info")
    assert "TestWrong::test_what_is_missing_is_said" in text
    assert "to mend it: leave a field that a sample lacks out of its dict" in text
    assert "no dataset is called 'digit'" in text
    assert "did you mean" in text.lower()
    assert summary.count("FAILED test_mine.py::TestMisspelt") == 8
    assert failures.count("to mend it: install its package, and see in `mtdiff plugins`") == 8, "each says it"
    assert "9 failed, 13 passed, 2 skipped" in text


def test_who_has_no_pytest_cannot_check(tmp_path):
    command = "import sys; import mtdiff_core.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, timeout=300, check=True)
