"""A data set of 3 GB goes through processes that may hold half a gigabyte beside torch's libraries."""

import json
import os
import re
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest

from tests.conftest import CLONE, TINY

pytestmark = pytest.mark.scale

SAMPLES, SIZE = 16_000, 256  # noise, which PNG cannot make smaller: 0.2 MB a sample
ALLOWED = 512 * 2**20  # bytes of private memory, beside what importing takes

PLUGIN = f"""
    import torch

    from mtdiff_core import DatasetSource, FieldSpec, component, hookimpl
    from readme_number import Number


    class NoiseSamples:
        fields = {{
            "photo": FieldSpec(shape=(3, {SIZE}, {SIZE}), dtype="uint8"),
            "image": FieldSpec(shape=(1, 8, 8), dtype="uint8"),
        }}

        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            random = torch.Generator().manual_seed(index)
            photo = torch.randint(0, 256, (3, {SIZE}, {SIZE}), dtype=torch.uint8, generator=random)
            return {{"photo": photo, "image": photo[:1, :8, :8]}}


    @component
    class Noise(DatasetSource):
        "Large pictures of noise, drawn when they are asked for."

        def open(self, split):
            return NoiseSamples({SAMPLES} if split == "train" else 64)


    @component
    class Brightness(Number):
        "The mean of a picture."

        def check(self, spec):
            pass

        def prepare(self, values, generator):
            return values.float().mean(dim=(1, 2, 3)) / 255


    @hookimpl
    def mtdiff_datasets():
        return {{"noise": Noise}}


    @hookimpl
    def mtdiff_modalities():
        return {{"brightness": Brightness}}
"""

# A command under a limit that is set once everything is imported: torch's libraries alone may take a gigabyte.
PROGRAM = """if True:
    import re, resource, sys
    from pathlib import Path
    import mtdiff_core.training.run, mtdiff_core.data.packing, torchvision.transforms.v2, matplotlib.pyplot
    from mtdiff_core.cli.main import exit_code
    taken = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_DATA, (taken + int(sys.argv[1]), ) * 2)
    sys.argv = ["mtdiff", *sys.argv[2:]]
    code = exit_code()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak of resident memory: {peak / 1024:.0f} MB, {before / 1024:.0f} MB of it imports")
    sys.exit(code)
"""


@pytest.fixture
def limited(tmp_path):
    """Run a command under the limit, with the test's plugin installed; gives what it said."""
    information = tmp_path / "site" / "noise-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: noise\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mtdiff]\nnoise = noise_of_a_test\n")
    (code,) = re.findall(r"```python\n(.*?)```", (CLONE / "README.md").read_text(), re.DOTALL)
    (tmp_path / "site" / "readme_number.py").write_text(code)
    (tmp_path / "site" / "noise_of_a_test.py").write_text(dedent(PLUGIN))
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    def call(allowed, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(allowed), *map(str, arguments)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(arguments[0], done.stdout.splitlines()[-1])
        return done

    yield call
    shutil.rmtree(tmp_path / "packed", ignore_errors=True)


def test_three_gigabytes_do_not_go_through_half_a_gigabyte(limited, tmp_path):
    changes = {
        'dataset = "digits"\nsize = 8': 'dataset = "noise"',
        "batch_size = 16": "batch_size = 64",
        '[modalities.label]\ntype = "label"': '[modalities.bright]\ntype = "brightness"\nfield = "photo"',
    }
    recipe = TINY
    for was, now in changes.items():
        assert was in recipe
        recipe = recipe.replace(was, now)
    (tmp_path / "noise.toml").write_text(recipe)
    done = limited(ALLOWED, "data", "pack", "noise.toml", "--out", "packed")
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "packed" / "train").iterdir()) > 3e9

    steps = SAMPLES // 64 + 10  # an epoch, and the beginning of the next
    settings = ["--set", f"train.steps={steps}", "--set", "data.workers=2", "--set", "data.shuffle_buffer=500",
                "--set", "data.memory_mb=64", "--set", "train.checkpoint_every=100"]  # fmt: skip
    done = limited(ALLOWED, "run", "packed/recipe.toml", "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))

    # the limit is one: a buffer that does not fit in ends the run, with one sentence
    wide = [*settings, "--set", "data.shuffle_buffer=4000"]
    done = limited(ALLOWED, "run", "packed/recipe.toml", "--out", "other", *wide)
    assert done.returncode == 2
    assert "there is not enough memory" in done.stderr
