"""Plugins of others: built, installed beside our wheel, and trained with what we bring."""

import json
import re
import shutil

import pytest
from safetensors.numpy import load_file

from mtdiff_core.packaged import packaged
from mtdiff_core.scaffold import KINDS
from tests.conftest import CLONE
from tests.distribution.conftest import SMALL

OUTSIDE = CLONE / "tests" / "plugins" / "out_of_tree"
NAMES = {kind: f"own-{kind}" for kind in KINDS}


def row_of(said, name):
    (row,) = [line.split() for line in said.splitlines() if line.split()[:1] == [name]]
    return row


def lines_of(path):
    return len([line for line in path.read_text().splitlines() if line.strip()])


@pytest.fixture(scope="module")
def gauges(environment, build_package):
    """The run of a recipe that joins a stranger's modality and data set with our image and label."""
    environment.install(build_package(OUTSIDE))
    shutil.copy(OUTSIDE / "recipe.toml", environment.work / "gauges.toml")
    environment.mtdiff("run", "gauges.toml", "--out", "gauges", small=True)
    return environment.work / "gauges"


def test_a_stranger_s_plugin_is_not_found_or_slows_listings_down(environment, gauges):
    row = row_of(environment.mtdiff("plugins"), "gauges")
    assert row[1:4] == ["mtdiff-gauges", "3.1", "ok"]
    assert "imports torch" not in environment.mtdiff("plugins")
    assert "hidden = 64" in environment.mtdiff("plugins", "show", "reading")


def test_a_stranger_s_modality_is_not_generated_with_image_and_label(gauges):
    joint = load_file(gauges / "samples" / "samples.safetensors")
    assert {name: values.shape[1:] for name, values in joint.items()} == {
        "image": (1, 16, 16),
        "label": (),
        "reading": (2,),
    }


def test_a_stranger_s_modality_cannot_be_given(environment, gauges):
    environment.mtdiff("sample", gauges, "--given", "reading=0.25,0.75", "--num", 2, "--steps", 2, "--out", "given")
    given = load_file(environment.work / "given" / "samples.safetensors")
    assert abs(given["reading"] - [[0.25, 0.75]] * 2).max() < 1e-6


def test_a_stranger_s_metric_does_not_judge_its_modality(environment, gauges):
    environment.mtdiff("evaluate", gauges, "--metric", "reading_error", "--num", 8, "--no-bound", "--fewer-steps", "")
    directions = json.loads((gauges / "evaluation.json").read_text())["directions"]
    judged = {one["direction"]: [figure["of"] for figure in one["figures"]] for one in directions}
    assert judged == {
        "joint -> image + label + reading": [],
        "image -> label + reading": [["reading"]],
        "label -> image + reading": [["reading"]],
        "reading -> image + label": [],
    }


@pytest.mark.parametrize(
    ("module", "project"),
    [
        (OUTSIDE / "mtdiff_gauges" / "modality.py", OUTSIDE / "pyproject.toml"),
        (packaged("templates") / "modality" / "mtdiff_plugin_name.py", packaged("templates/modality/pyproject.toml")),
    ],
    ids=["out of tree", "plugins new"],
)
def test_a_modality_takes_more_than_40_lines_of_python_or_10_of_toml(module, project):
    assert lines_of(module) <= 40
    assert lines_of(project) <= 10


@pytest.fixture(scope="module")
def written(environment, build_package):
    """Packages as ``mtdiff plugins new`` writes them, installed, by kind."""
    for kind, name in NAMES.items():
        environment.mtdiff("plugins", "new", name, "--kind", kind)
    packages = {kind: environment.work / f"mtdiff-{name}" for kind, name in NAMES.items()}
    environment.install(*map(build_package, packages.values()))
    return packages


def test_a_new_plugin_cannot_be_installed(environment, written):
    said = environment.mtdiff("plugins")
    for name in NAMES.values():
        assert row_of(said, name)[1:4] == [f"mtdiff-{name}", "0.1.0", "ok"]


def test_a_new_plugin_fails_its_own_tests(environment, written):
    said = environment.run("python", "-m", "pytest", "-p", "no:cacheprovider", "-rA", *written.values())
    for name in NAMES.values():
        assert re.search(rf"^PASSED .*\btest_{name.replace('-', '_')}\.py::", said, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_does_not_train(environment, written, kind):
    environment.mtdiff("run", written[kind] / "recipe.toml", "--out", kind, small=True)
    last = json.loads((environment.work / kind / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == SMALL["train.steps"]
