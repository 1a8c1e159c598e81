"""What the README shows, run as it stands."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from safetensors.torch import load_file

from tests.conftest import CLONE, TINY

README = (CLONE / "README.md").read_text()


@pytest.fixture
def installed(tmp_path):
    """The README's modality, as pip would leave it; gives its name and the environment that finds it."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (table,) = [text for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "entry-points" in text]
    ((name, module),) = tomllib.loads(table)["project"]["entry-points"]["mtdiff"].items()
    (tmp_path / f"{module}.py").write_text(code)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mtdiff]\n{name} = {module}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return name, {**os.environ, "PYTHONPATH": path}


def test_the_readme_s_modality_cannot_be_trained_given_and_generated(mtdiff_process, installed, tmp_path):
    name, environment = installed
    recipe = tmp_path / "own.toml"
    recipe.write_text(TINY.replace('type = "label"', f'type = "{name}"\nunit = 5.0'))

    def mtdiff(*arguments):
        done = mtdiff_process(*arguments, env=environment)
        assert done.returncode == 0, done.stderr

    mtdiff("run", recipe, "--set", "train.steps=3", "--set", "sample.steps=2", "--out", "run")
    mtdiff("sample", "run", "--given", "label=7.5", "--num", 3, "--steps", 2, "--out", "given")
    given = load_file(tmp_path / "given" / "samples.safetensors")
    assert given["label"].tolist() == [7.5] * 3
    mtdiff("sample", "run", "--given", "image=@test", "--num", 3, "--steps", 2, "--out", "read")
    read = load_file(tmp_path / "read" / "samples.safetensors")
    assert read["label"].shape == (3,)
    assert read["label"].isfinite().all()


def test_the_readme_s_modality_breaks_a_promise_or_its_test_does_not_say_so(installed, tmp_path):
    (test,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    (tmp_path / "test_number.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "test_number.py"]
    done = subprocess.run(command, cwd=tmp_path, env=installed[1], capture_output=True, text=True, check=False)
    assert "20 passed, 2 skipped" in done.stdout, done.stdout
