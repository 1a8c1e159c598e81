"""Help and listings answer at once: none of them imports torch."""

import json
import subprocess
import sys

import click
import pytest

from mtdiff_core.cli.main import cli
from mtdiff_core.packaged import packaged_recipes

# Runs commands one after another in one fresh process, and says of each how it ended and what it had to import.
PROGRAM = """
import contextlib, io, json, sys
from mtdiff_core.cli.main import exit_code

answers = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["mtdiff", *line]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = exit_code()
    heavy = sorted({"torch", "torchvision", "numpy", "PIL"} & set(sys.modules))
    answers.append({"line": line, "code": code, "said": said.getvalue(), "heavy": heavy})
print(json.dumps(answers))
"""

LISTINGS = [
    ["plugins"],
    ["plugins", "show", "label"],
    ["plugins", "show", "linear"],
    ["recipes"],
    ["recipes", "list"],
    ["recipes", "show", "image+label"],
    ["--version"],
]


def commands(command, path=()):
    """Every command of the tree with its path."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


TREE = dict(commands(cli))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    lines = [[*path, flag] for path in TREE for flag in ("--help", "-h")] + LISTINGS
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)],
        cwd=tmp_path_factory.mktemp("empty"), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {tuple(answer["line"]): answer for answer in json.loads(done.stdout)}


def test_the_tree_that_is_walked_holds_the_commands():
    assert {("run",), ("sample",), ("plugins", "show"), ("recipes", "validate")} <= set(TREE)


def test_help_and_listings_end_well_without_torch(answers):
    assert [line for line, answer in answers.items() if answer["code"] != 0] == []
    assert [(line, answer["heavy"]) for line, answer in answers.items() if answer["heavy"]] == []


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_help_says_what_the_command_does_and_names_every_option(answers, path):
    command = TREE[path]
    said = answers[*path, "--help"]["said"]
    assert said == answers[*path, "-h"]["said"]
    assert said.startswith(f"Usage: {' '.join(['mtdiff', *path])} ")
    assert "\\b" not in said, "click's mark for lines to keep is printed"
    assert command.help.strip().split("\n")[0] in " ".join(said.split())
    for name in getattr(command, "commands", {}):
        assert f"\n  {name} " in said
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} has no help"
            assert parameter.opts[-1] in said
        else:
            assert parameter.name.upper() in command.help, "an argument is explained in the text"


def test_the_plugin_list_names_components_of_every_kind(answers):
    said = " ".join(answers["plugins",]["said"].split())
    for brought in (
        "mtdiff_modalities: label",
        "mtdiff_datasets: digits",
        "mtdiff_schedules: cosine",
        "mtdiff_backbones: unet",
    ):
        assert brought in said
    assert "failed" not in said


def test_a_component_is_described_with_every_option_and_its_default(answers, registry):
    said = answers["plugins", "show", "label"]["said"]
    assert "label, a modality, from plugin 'label' of mtdiff" in said
    for name, info in registry.get("modality", "label").cls.options().items():
        # a wrapped line of some help may begin with the same word
        rows = [line for line in said.splitlines() if line.split()[:1] == [name]]
        assert any(repr(info.default) in row for row in rows)


def test_an_aggregator_is_described_with_the_keys_it_adds_to_modalities(answers):
    said = answers["plugins", "show", "linear"]["said"]
    assert "options in the table of every modality but the anchor" in said
    assert "strength" in said


def test_a_shipped_recipe_is_printed_byte_for_byte(answers):
    shipped = packaged_recipes()
    assert answers["recipes", "show", "image+label"]["said"] == shipped["image+label"].read_text()
    for name in shipped:
        assert name in answers["recipes",]["said"]
