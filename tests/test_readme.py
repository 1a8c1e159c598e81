"""What the README shows, run as it stands."""

import os
import re
import tomllib

from safetensors.torch import load_file

from tests.conftest import CLONE, TINY

README = (CLONE / "README.md").read_text()


def test_the_readme_s_modality_cannot_be_installed_trained_given_and_generated(mtdiff_process, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (table,) = [text for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "entry-points" in text]
    ((name, module),) = tomllib.loads(table)["project"]["entry-points"]["mtdiff"].items()
    (tmp_path / f"{module}.py").write_text(code)
    info = tmp_path / f"{module}-1.0.dist-info"  # as pip would leave it
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mtdiff]\n{name} = {module}\n")
    recipe = tmp_path / "own.toml"
    recipe.write_text(TINY.replace('type = "label"', f'type = "{name}"\nunit = 5.0'))

    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def mtdiff(*arguments):
        done = mtdiff_process(*arguments, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr

    mtdiff("run", recipe, "--set", "train.steps=3", "--set", "sample.steps=2", "--out", "run")
    mtdiff("sample", "run", "--given", "label=7.5", "--num", 3, "--steps", 2, "--out", "given")
    given = load_file(tmp_path / "given" / "samples.safetensors")
    assert given["label"].tolist() == [7.5] * 3
    mtdiff("sample", "run", "--given", "image=@test", "--num", 3, "--steps", 2, "--out", "read")
    read = load_file(tmp_path / "read" / "samples.safetensors")
    assert read["label"].shape == (3,)
    assert read["label"].isfinite().all()
