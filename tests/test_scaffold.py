"""``mtdiff plugins new``: a package that is written whole, under a name that is free, or not at all."""

import errno
import re
import tomllib
from pathlib import Path

import pytest

from mtdiff_core.errors import UserError
from mtdiff_core.scaffold import KINDS, write_plugin


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_written_with_another_name_or_with_the_templates_own(mtdiff, tmp_path, kind):
    code, said, err = mtdiff("plugins", "new", "heart-rate", "--kind", kind)
    assert (code, err) == (0, "")
    folder = tmp_path / "mtdiff-heart-rate"
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert said.startswith(f"wrote mtdiff-heart-rate: {', '.join(files)}\n")
    assert {"README.md", "pyproject.toml", "recipe.toml", "tests/test_heart_rate.py"} <= set(files)
    for file in files:
        text = (folder / file).read_text()
        assert not re.search("plugin[-_ ]?name", f"{file} {text}", re.IGNORECASE)
        if file.endswith(".py"):
            compile(text, file, "exec")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["mtdiff"] == {"heart-rate": "mtdiff_heart_rate"}
    assert [path.name for path in tmp_path.iterdir()] == ["mtdiff-heart-rate"]


def test_a_folder_that_exists_is_written_into(mtdiff, tmp_path):
    (tmp_path / "here").mkdir()
    code, _, err = mtdiff("plugins", "new", "heart-rate", "--out", "here")
    assert (code, err.splitlines()[0]) == (2, "error: here: exists already, and nothing in it is changed")
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Heart", "'Heart' cannot be a plugin's name"),
        ("heart_rate", "'heart_rate' cannot be a plugin's name"),
        ("../heart", "'../heart' cannot be a plugin's name"),
        ("label", "plugin 'label' of mtdiff 0.1.0 has a modality called 'label' already"),
        ("core", "there is a module mtdiff_core already"),
        ("modality", "Modality means something else in Python, in mtdiff or in the template"),
        ("none", "None means something else in Python, in mtdiff or in the template"),
    ],
)
def test_a_name_that_is_taken_or_cannot_be_one_is_used(mtdiff, tmp_path, name, says):
    code, _, err = mtdiff("plugins", "new", name)
    assert (code, err.splitlines()[0]) == (2, f"error: {says}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), [("metric", "usual-brightness"), ("aggregator", "modality-options")])
def test_a_class_of_the_template_is_overwritten_by_the_plugin_s(mtdiff, tmp_path, kind, name):
    code, _, err = mtdiff("plugins", "new", name, "--kind", kind)
    assert code == 2
    assert "means something else in Python, in mtdiff or in the template" in err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_half_a_package(tmp_path, monkeypatch):
    write, written = Path.write_text, []

    def write_until_full(path, *arguments, **options):
        written.append(path)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_until_full)
    with pytest.raises(UserError, match="cannot write the package: the disk is full"):
        write_plugin("heart-rate", "modality", tmp_path / "mine")
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


def test_what_a_killed_one_left_is_mixed_into_the_next(tmp_path):
    left = tmp_path / ".mine.partial"
    left.mkdir()
    (left / "half.py").write_text("")
    write_plugin("heart-rate", "logger", tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not (tmp_path / "mine" / "half.py").exists()
