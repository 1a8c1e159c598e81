"""Ten thousand samples are judged in bounded memory: pytest -m scale -s tests/scale/test_evaluate_memory.py"""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import TINY

pytestmark = pytest.mark.scale

NUM, SIZE = 10_000, 128  # 655 MB of pictures as numbers: kept, and put together once, they would not fit
ALLOWED = 2 * 2**30  # bytes that a process may hold at its peak, libraries included

# A network that costs next to nothing: what is looked at is what holds its samples.
SETTINGS = [
    f"data.size={SIZE}", "backbone.channels=8", "backbone.multipliers=[1,1,1,1]", "backbone.attention=[]",
    "backbone.head_channels=8", "sample.steps=1", "sample.num=2", "sample.batch_size=32", "train.steps=2",
]  # fmt: skip

PROGRAM = """if True:
    import resource, sys
    from mtdiff_core.cli.main import exit_code
    code = exit_code()
    unit = 1 if sys.platform == "darwin" else 1024
    print("peak:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    sys.exit(code)
"""


def test_ten_thousand_samples_are_judged_in_more_than_two_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))

    def mtdiff(*arguments):
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(re.search(r"peak: (\d+)", done.stdout)[1])

    (tmp_path / "tiny.toml").write_text(TINY)
    mtdiff("run", "tiny.toml", "--out", "run", *(x for one in SETTINGS for x in ("--set", one)))
    quick = ["--fewer-steps", "", "--bound-num", 4, "--bound-calls", 4]
    peak = mtdiff("evaluate", "run", "--num", NUM, *quick)
    print(f"peak of resident memory for {NUM} samples: {peak / 2**20:.0f} MB")
    joint = json.loads((tmp_path / "run" / "evaluation.json").read_text())["directions"][0]
    counts = {figure["name"]: figure["n"] for figure in joint["figures"]}
    assert counts["frechet_distance"] == counts["nearest_training"] == counts["agreement"] == NUM
    assert peak < ALLOWED
