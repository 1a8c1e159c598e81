"""Every way a plugin can be broken: what becomes of the command, and that docs/plugins-broken.md shows its message."""

import re
from textwrap import dedent

import pytest

from tests.conftest import CLONE, TINY

PAGE = CLONE / "docs" / "plugins-broken.md"

IMPORT = "from mtdiff_core import Aggregator, DatasetSource, Metric, Modality, component, hookimpl, option\n"
SOURCE = """
@component
class Source(DatasetSource):
    size: int = option(1, help="size")
    def open(self, split): ...
@hookimpl
def mtdiff_datasets(): return {"mine": Source}
"""


def but(old, new):
    """A plugin that is well, but for one thing."""
    assert old in SOURCE
    return IMPORT + SOURCE.replace(old, new)


def built_for(version):
    return but("\n@component", f"\nMTDIFF_PLUGIN_API = {version}\n@component")


# What one hook or class in a plugin is like that is left out when it is loaded.
LEFT_OUT = {
    "It imports what is not installed": "import no_such_module",
    "It is no Python": "def",
    "It leaves while it is imported": "import sys; sys.exit('no licence found')",
    "Its error cannot be printed": """
        class Odd(Exception):
            def __str__(self): raise Odd
        raise Odd
        """,
    "It imports a name that this mtdiff does not have": "from mtdiff_core import Modality, Hologram",
    "It imports a module that this mtdiff does not have": "import mtdiff_core.holograms",
    "It was built for a later plugin API": built_for('"1.7"'),
    "It was built for another major plugin API": built_for('"0.9"'),
    "It declares a plugin API that is no version": built_for("1"),
    "It has no hook": "x = 1",
    "Its hooks are not marked": "def mtdiff_datasets(): return {}",
    "It misspells a hook": IMPORT + "@hookimpl\ndef mtdiff_dataset(): return {}",
    "A hook asks for an argument that there is not": IMPORT + "@hookimpl\ndef mtdiff_step_finished(run, loss): ...",
    "A hook is a wrapper": IMPORT + "@hookimpl(wrapper=True)\ndef mtdiff_run_finished(): yield",
    "A hook raises": IMPORT + "@hookimpl\ndef mtdiff_datasets(): raise OSError('no network')",
    "A hook gives a list": IMPORT + "@hookimpl\ndef mtdiff_datasets(): return []",
    "A hook gives something that is no class": but("Source}", "Source()}"),
    "A hook gives a class of no kind": but("Source}", "dict}"),
    "A hook gives a class of another kind": but("mtdiff_datasets", "mtdiff_modalities"),
    "A component's name has a slash": but('"mine"', '"my/own"'),
    "A component's name is no text": but('"mine"', "7"),
    "A class lacks @component": but("@component", ""),
    "A class lacks a method": but("def open(self, split): ...", ""),
    "A method has an old signature": but("open(self, split)", "open(self)"),
    "A method is no method": but("def open(self, split): ...", 'open = "folder"'),
    "An option has a key of the recipe's own": but("size:", "workers:"),
    "An option's type cannot be written in TOML": but("size: int", "size: set"),
    "An option's type does not exist": but("size: int", "size: 'Int'"),
    "An option's default is not allowed": but("option(1,", "option(1, minimum=2,"),
    "A field without default is no option": but(' = option(1, help="size")', ""),
    "An aggregator does not say its options for modalities": IMPORT
    + """
@component
class Sum(Aggregator):
    def layout(self, anchor, anchor_shape, block_channels): ...
    def coefficient(self, options, alpha, sigma): ...
    def carries(self, options): ...
@hookimpl
def mtdiff_aggregators(): return {"mine": Sum}
""",
    "A metric does not say what it needs": IMPORT
    + """
@component
class Score(Metric):
    def scorers(self, known, generated, modalities, real): ...
@hookimpl
def mtdiff_metrics(): return {"mine": Score}
""",
    "A modality is one-to-one and has no shape as the anchor": IMPORT
    + """
@component
class Sound(Modality):
    one_to_one = True
    def check(self, spec): ...
    def encoder(self, slot): ...
    def decoder(self, slot, features): ...
    def prepare(self, values, generator): ...
    def natural(self, values): ...
    def parse(self, text): ...
@hookimpl
def mtdiff_modalities(): return {"mine": Sound}
""",
}

# What a package's list of entry points says.
BADLY_LISTED = {
    "Its entry point names no module": "broken = my plugin!",
    "Its entry point names what the module does not have": "broken = broken:plugin",
    "Its list of entry points is damaged": "broken",
}

LISTENER = IMPORT + "@hookimpl\ndef mtdiff_step_finished(step): "
# What a listener does while a run is under way.
AMID_A_RUN = {
    "A listener raises": LISTENER + "1 / 0",
    "A listener leaves": LISTENER + "import sys; sys.exit(3)",
}
REFUSING = {
    "A listener refuses to go on": LISTENER + "import mtdiff_core; raise mtdiff_core.UserError('it is full')",
}

# A data set whose code fails while it is in use.
FAILING = {"A component fails while it is used": but("...", "return {}['train']")}

# Data sets called like one of ours, or not there, and asked for by a recipe.
NEEDED = {
    "A recipe needs a plugin that is broken": ("import no_such_module", "mine"),
    "A recipe needs a name that two plugins use": (but('"mine"', '"digits"'), "digits"),
}


def cases():
    return [*LEFT_OUT, *BADLY_LISTED, "It is found twice", *AMID_A_RUN, *REFUSING, *FAILING, *NEEDED]


def rows():
    """The page's tables: title to (what becomes of the command, message)."""
    lines = re.findall(r"^\| (.+?) \| (.+?) \| `(.+?)` \|$", PAGE.read_text(), re.MULTILINE)
    return {title: (effect, message) for title, effect, message in lines}


def shown(stderr):
    return " ".join(stderr.split())


def broken(install, source, **more):
    install("broken", source, distribution="broken-package", **more)


def test_a_way_to_be_broken_is_missing_from_the_page_or_from_here():
    assert list(rows()) == cases()


@pytest.mark.parametrize("title", LEFT_OUT)
def test_a_plugin_that_cannot_be_loaded_ends_a_command_or_is_left_out_with_another_message(
    install, mtdiff, tiny, title
):
    broken(install, LEFT_OUT[title])
    code, out, err = mtdiff("recipes", "validate", tiny)
    assert (code, shown(err)) == (0, rows()[title][1])
    assert "is valid" in out
    assert rows()[title][0] == "goes on"


@pytest.mark.parametrize("title", BADLY_LISTED)
def test_a_package_that_lists_its_plugin_badly_ends_a_command_or_is_left_out_with_another_message(
    install, mtdiff, tiny, title
):
    broken(install, "", points=BADLY_LISTED[title])
    code, _, err = mtdiff("recipes", "validate", tiny)
    assert (rows()[title][0], code, shown(err)) == ("goes on", 0, rows()[title][1])


def test_a_package_that_was_removed_by_halves_ends_a_command(install, mtdiff, tiny):
    info = install("broken", "import no_such_module", points="broken = broken")
    (info / "METADATA").unlink()
    code, _, err = mtdiff("recipes", "validate", tiny)
    assert code == 0
    assert "plugin 'broken' of an unknown distribution is left out" in err


def test_a_plugin_that_is_listed_twice_by_its_package_is_loaded_twice(install, mtdiff, tiny):
    broken(install, IMPORT + SOURCE, points="broken = broken\nbroken = broken")
    code, _, err = mtdiff("recipes", "validate", tiny)
    effect, message = rows()["It is found twice"]
    assert (effect, code, shown(err)) == ("goes on", 0, message)


@pytest.mark.parametrize("title", NEEDED)
def test_what_a_recipe_needs_is_not_refused_or_refused_with_another_message(install, mtdiff, tiny, title):
    source, name = NEEDED[title]
    broken(install, source)
    code, _, err = mtdiff("recipes", "validate", tiny, "--set", f"data.dataset={name}")
    effect, message = rows()[title]
    assert (effect, code) == ("is refused, exit code 2", 2)
    assert shown(err[err.index("error: ") :]) == message.replace("RECIPE", str(tiny))


def test_a_component_that_fails_is_taken_for_a_fault_of_ours(install, mtdiff, tiny):
    ((title, source),) = FAILING.items()
    broken(install, source)
    code, _, err = mtdiff("recipes", "validate", tiny, "--set", "data.dataset=mine")
    assert (code, rows()[title][0]) == (1, "fails, exit code 1")
    traceback, _, said = err.partition("error: ")
    assert shown(f"error: {said}") == rows()[title][1]
    assert "return {}['train']" in traceback, "where it failed is for its authors"


@pytest.mark.parametrize("title", [*AMID_A_RUN, *REFUSING])
def test_a_listener_ends_a_run_without_its_name_or_is_reported_otherwise(install, mtdiff_beside, tmp_path, title):
    broken(install, {**AMID_A_RUN, **REFUSING}[title])
    (tmp_path / "tiny.toml").write_text(TINY)
    done = mtdiff_beside("run", "tiny.toml", "--set", "train.steps=2", "--out", "run")
    effect, message = rows()[title]
    said = [shown(line) for line in dedent(done.stderr).splitlines()]
    assert said.count(message) == 1
    if title in AMID_A_RUN:
        assert (effect, done.returncode) == ("goes on", 0)
        assert (tmp_path / "run" / "samples" / "grid.png").is_file()
    else:
        assert (effect, done.returncode) == ("is refused, exit code 2", 2)
