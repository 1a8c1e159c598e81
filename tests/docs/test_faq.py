"""The messages that docs/faq.md shows are those that the commands it shows give."""

import re
import shlex
import sys

import pytest

from mtdiff_core.cli.main import exit_code
from tests.conftest import CLONE, TINY

PAGE = (CLONE / "docs" / "faq.md").read_text()
SHOWN = dict(re.findall(r"```console\n\$ mtdiff ([^\n]+)\n(.*?)\n```", PAGE, re.DOTALL))
AMID_TRAINING = re.findall(r"^\| `(.+?)` \|", PAGE.partition("## While it trains")[2], re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, and with a file that is no picture."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "recipe.toml").write_text(TINY.replace('"tiny"', '"image+label"'))
    (folder / "photo.png").write_text("no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mtdiff", "run", "recipe.toml"])
        assert exit_code() == 0
    return folder


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_message_is_not_looked_at():
    assert len(SHOWN) == PAGE.count("```console") > 10
    assert len(AMID_TRAINING) == 5


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_says_something_else_than_the_page(mtdiff, folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    before = files(folder)
    code, _, errors = mtdiff(*shlex.split(command))
    shown = ".*".join(map(re.escape, SHOWN[command].split("...")))
    said = errors.replace(f"{CLONE}/", "").strip()
    assert code == 2
    assert re.fullmatch(shown, said), said
    assert files(folder) == before


@pytest.mark.parametrize("message", AMID_TRAINING)
def test_a_message_amid_training_is_nowhere_in_the_code(message):
    source = "".join(path.read_text() for path in sorted((CLONE / "mtdiff_core").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # texts over several lines
    said = re.sub(r"%[sdr]|\{[^{}]*\}", "...", joined)
    for part in filter(None, (part.strip() for part in message.split("..."))):
        assert part in said
