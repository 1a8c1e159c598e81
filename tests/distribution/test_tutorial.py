"""docs/write-a-modality.md, followed to the letter in a fresh environment."""

import os
import re

import pytest
from safetensors.numpy import load_file

from tests.conftest import CLONE
from tests.distribution.conftest import SMALL, succeed

PAGE = (CLONE / "docs" / "write-a-modality.md").read_text()
NUMBER = re.compile(r"(?<=drawn )[+-]\d\.\d\d")
BLOCKS = re.findall(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def followed(environment):
    """The folder after every block of the page in turn, and what each command said."""
    folder = environment.work / "mtdiff-slant"
    folder.mkdir()
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1"}  # 0 is pip's word for "do not"
    path = f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**environment.variables, **offline, "PATH": path}
    # It sees these packages, and has no scripts of them
    scripts = 'pip() { python -m pip "$@"; }\npytest() { python -m pytest -p no:cacheprovider "$@"; }\n'
    said, line = {}, ""
    for language, title, text in BLOCKS:
        if title:
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)
            continue
        if language == "text":  # what the last command said, after a longer training
            said["shown"], said["said"] = NUMBER.sub("x", text), NUMBER.sub("x", said[line])
            continue
        assert language == "bash", "a block that is neither a file nor commands nor what they said"
        for line in text.splitlines():
            command = scripts + line
            if line.startswith("mtdiff run"):  # as it stands it takes minutes
                command += "".join(f" --set {key}={value}" for key, value in SMALL.items())
            said[line] = succeed(["bash", "-c", command], cwd=folder, env=variables)
    return folder, said


def test_the_tutorial_cannot_be_followed(followed):
    _, said = followed
    (counts,) = re.findall(r"`(\d+ passed, \d+ skipped)`", PAGE)  # the kit's checks and its own
    assert counts in said["pytest"]
    assert "slant, a modality, from plugin 'slant' of mtdiff-slant 0.1.0" in said["mtdiff plugins show slant"]
    assert said["said"] == said["shown"]


def test_the_tutorial_s_modality_is_not_generated_in_every_direction(followed):
    folder, _ = followed
    measured = load_file(folder / "measured" / "samples.safetensors")
    assert measured["slant"].shape == (297,)
    ones = load_file(folder / "ones" / "samples.safetensors")
    assert set(ones["label"].tolist()) == {1}
    assert abs(ones["slant"] - 0.2).max() < 1e-6
