"""Every way a plugin can be broken: what becomes of the command, and that docs/plugins-broken.md shows its message."""

import json
import re
import sys
from textwrap import dedent

import pytest

from mtdiff_core.cli.main import exit_code
from mtdiff_core.registry.registry import Registry
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
    "A hook is asynchronous": IMPORT + "@hookimpl\nasync def mtdiff_run_finished(): ...",
    "A hook has a yield": IMPORT + "@hookimpl\ndef mtdiff_run_finished(): yield",
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
    "An option's default is of another type": but("option(1,", "option(2.5,"),
    "An option's help is no text": but('help="size"', "help=None"),
    "An option's key begins with an underscore": but("size:", "_size:"),
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

# What lies beside a plugin that cannot be imported.
HALF_REMOVED = "Its package was removed by halves"

# What a package's list of entry points says.
BADLY_LISTED = {
    "Its entry point names no module": "broken = my plugin!",
    "Its entry point names what the module does not have": "broken = broken:plugin",
    "Its entry point names another plugin's module": "broken = mtdiff_image",
    "Its list of entry points is damaged": "broken",
}

LISTENER = IMPORT + "@hookimpl\ndef mtdiff_step_finished(step): "
# What a listener does while a run is under way.
AMID_A_RUN = {
    "A listener raises": LISTENER + "1 / 0",
    "A listener leaves": LISTENER + "import sys; sys.exit(3)",
    "A listener raises as a run begins": LISTENER.replace("step_finished", "run_started") + "1 / 0",
    "A listener raises as a checkpoint is saved": LISTENER.replace("step_finished", "checkpoint_saved") + "1 / 0",
    "A listener raises as a picture is drawn": LISTENER.replace("step_finished", "grid_drawn") + "1 / 0",
    "A listener raises as a run ends": LISTENER.replace("step_finished", "run_finished") + "1 / 0",
}
GOING_BACK = {
    "A listener raises as a run goes back": LISTENER.replace("step_finished", "run_went_back") + "1 / 0",
}
REFUSING = {
    "A listener refuses to go on": LISTENER + "import mtdiff_core; raise mtdiff_core.UserError('it is full')",
}

# A data set whose code fails while it is in use.
FAILING = {
    "A component fails while it is used": but("...", "return {}['train']"),
    "A component leaves while it is used": but("...", "exit(0)"),
}

# A data set that is well, and a modality, as a recipe's label.
WELL = """
import torch
from mtdiff_core import Decoder, Encoder, FieldSpec, TensorSamples
from torch.distributions import Independent, Normal
FIELDS = {
    "image": FieldSpec(shape=(1, 8, 8), dtype="uint8"),
    "label": FieldSpec(shape=(), dtype="int64", classes=("no", "yes")),
}
VALUES = {"image": torch.zeros(32, 1, 8, 8, dtype=torch.uint8), "label": torch.arange(32) % 2}
@component
class Source(DatasetSource):
    def open(self, split): return TensorSamples(FIELDS, VALUES)
@hookimpl
def mtdiff_datasets(): return {"mine": Source}
class Codes(Encoder):
    def __init__(self, slot):
        super().__init__()
        self.slot = slot
    def forward(self, values): return values[:, None, None, None].expand(-1, *self.slot)
    def expected(self, distribution): return self(distribution.mean)
class Head(Decoder):
    def forward(self, features, slot): return Normal(features.pooled.mean(1), 1.0)
@component
class Sound(Modality):
    def check(self, spec): ...
    def encoder(self, slot): return Codes(slot)
    def decoder(self, slot, features): return Head()
    def prepare(self, values, generator): return values.float()
    def natural(self, values): return values
    def parse(self, text): ...
@hookimpl
def mtdiff_modalities(): return {"mine": Sound}
"""


def gives(old, new):
    """A data set and a modality that are well, but for one thing."""
    assert old in WELL
    return IMPORT + WELL.replace(old, new)


# What a recipe's components give.
GIVING = {
    "A data set's samples are not what it says": gives("zeros(32, 1, 8, 8", "zeros(32, 1, 8, 9"),
    "A data set's samples are of another type than it says": gives("torch.arange(32) % 2", "torch.rand(32)"),
    "A data set has no training samples": gives("(FIELDS, VALUES)", "(FIELDS, {n: x[:0] for n, x in VALUES.items()})"),
    "A data set does not say what its samples hold": gives("(FIELDS, VALUES)", '({"image": (1, 8, 8)}, VALUES)'),
    "A data set's field is of no type that there is": gives('"int64"', '"integer"'),
    "An encoder is none": gives("return Codes(slot)", "return None"),
    "An encoder lacks a method": gives("def expected", "def expectation"),
    "An encoder has an old signature": gives("def forward(self, values)", "def forward(self, values, slot)"),
    "An encoder gives another shape than its slot's": gives(".expand(-1, *self.slot)", ""),
    "An encoder expects another shape than its slot's": gives("self(distribution.mean)", "distribution.mean"),
    "A decoder is none": gives("return Head()", "return torch.nn.Identity()"),
    "A decoder has an old signature": gives("def forward(self, features, slot)", "def forward(self, features)"),
    "A decoder gives no distribution": gives("Normal(features.pooled.mean(1), 1.0)", "features.pooled.mean(1)"),
    "A decoder's distribution is of another shape": gives("pooled.mean(1)", "pooled"),
    "A modality prepares no tensor": gives("return values.float()", "return None"),
    "A modality learns nothing that can be saved": gives(
        "def parse(", "def fit(self, samples, field, workshop): return {'mean': 0.5}\n    def parse("
    ),
}

METRIC = """
@component
class Score(Metric):
    needs = "a label that is generated"
    def scorers(self, known, generated, modalities, real): return [Count()]
class Count(Scorer):
    def update(self, batch): ...
    def figures(self):
        return [Figure(name="mine", of=("label",), value=1.0, interval=(0.0, 1.0), n=8, better="higher")]
@hookimpl
def mtdiff_metrics(): return {"mine": Score}
"""


def judges(old, new):
    """A metric that is well, but for one thing."""
    assert old in METRIC
    return "from mtdiff_core import Figure, Scorer\n" + IMPORT + METRIC.replace(old, new)


# Metrics that nobody asked for.
UNASKED = {
    "A metric that is not asked for needs an option": judges(
        "needs =", 'file: str = option(help="a file")\n    needs ='
    ),
    "A metric that is not asked for has a name that two plugins use": judges('"mine": Score', '"accuracy": Score'),
    "A metric that is not asked for fails": judges("return [Count()]", "return [][0]"),
    "A metric that is not asked for has no scorers": judges("[Count()]", "[len]"),
    "A scorer of one that is not asked for has an old signature": judges("update(self, batch)", "update(self)"),
    "A scorer of one that is not asked for fails": judges("update(self, batch): ...", "update(self, batch): 1 / 0"),
    "A scorer of one that is not asked for leaves": judges("update(self, batch): ...", "update(self, batch): exit(3)"),
    "A scorer of one that is not asked for gives no figure": judges("return [Figure", "return [dict"),
    "A figure of one that is not asked for is no number": judges("value=1.0", "value='1'"),
}
ASKED = {
    "A metric that is asked for refuses": judges(
        "return [Count()]", "import mtdiff_core; raise mtdiff_core.UserError('no ears')"
    ),
    "A scorer of a metric that is asked for gives no figure": judges("return [Figure", "return [dict"),
}
ASKED_AND_FAILING = {"A scorer of a metric that is asked for fails": judges("batch): ...", "batch): 1 / 0")}

# Data sets called like one of ours, or not there, and asked for by a recipe.
NEEDED = {
    "A recipe needs a plugin that is broken": ("import no_such_module", "mine"),
    "A recipe needs a name that two plugins use": (but('"mine"', '"digits"'), "digits"),
}


def cases():
    loaded = [*LEFT_OUT, *BADLY_LISTED, HALF_REMOVED, "It is found twice"]
    used = [*AMID_A_RUN, *GOING_BACK, *REFUSING, *FAILING, *GIVING, *UNASKED, *ASKED, *ASKED_AND_FAILING]
    return [*loaded, *used, *NEEDED]


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
    assert (rows()[HALF_REMOVED][0], code, shown(err)) == ("goes on", 0, rows()[HALF_REMOVED][1])


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


@pytest.mark.parametrize("title", FAILING)
def test_a_component_that_fails_is_taken_for_a_fault_of_ours(install, mtdiff, tiny, title):
    source = FAILING[title]
    broken(install, source)
    code, _, err = mtdiff("recipes", "validate", tiny, "--set", "data.dataset=mine")
    assert (code, rows()[title][0]) == (1, "fails, exit code 1")
    traceback, _, said = err.partition("error: ")
    assert shown(f"error: {said}") == rows()[title][1]
    assert source.partition("def open(self, split): ")[2].partition("\n")[0] in traceback, "where is for its authors"


@pytest.mark.parametrize("title", [*AMID_A_RUN, *REFUSING])
def test_a_listener_ends_a_run_without_its_name_or_is_reported_otherwise(
    install, mtdiff, tiny, tmp_path, caplog, title
):
    broken(install, {**AMID_A_RUN, **REFUSING}[title])
    code, _, err = mtdiff("run", tiny, "--set", "train.steps=2", "--out", "run")
    effect, message = rows()[title]
    said = [shown(line) for line in dedent(err).splitlines()] + [said_in(caplog)]
    assert said.count(message) == 1
    if title in AMID_A_RUN:
        assert (effect, code) == ("goes on", 0)
        assert (tmp_path / "run" / "samples" / "grid.png").is_file()
    else:
        assert (effect, code) == ("is refused, exit code 2", 2)


def test_a_listener_ends_a_run_that_goes_back(install, caplog):
    ((title, source),) = GOING_BACK.items()
    points = install("broken", source, distribution="broken-package")
    Registry(points).notify("mtdiff_run_went_back", run=None, step=3)
    assert rows()[title] == ("goes on", said_in(caplog))


def said_in(caplog):
    return " ".join(f"{record.levelname} {shown(record.getMessage())}" for record in caplog.records)


@pytest.fixture
def named(tmp_path):
    """A recipe that names both components of ``WELL``."""
    recipe = TINY.replace('dataset = "digits"\nsize = 8', 'dataset = "mine"').replace('type = "label"', 'type = "mine"')
    (tmp_path / "named.toml").write_text(recipe)
    return tmp_path / "named.toml"


def test_what_is_but_for_one_thing_well_is_not_well(install, mtdiff, named):
    broken(install, IMPORT + WELL)
    assert mtdiff("recipes", "validate", named)[::2] == (0, "")


@pytest.mark.parametrize("title", GIVING)
def test_what_a_component_gives_is_found_wrong_late_or_without_its_plugin(install, mtdiff, named, tmp_path, title):
    broken(install, GIVING[title])
    code, _, err = mtdiff("run", named, "--out", tmp_path / "run")
    effect, message = rows()[title]
    assert (effect, code) == ("is refused, exit code 2", 2)
    assert shown(err[err.index("error: ") :]) == message
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is judged by plugins that are broken."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "tiny.toml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mtdiff", "run", str(folder / "tiny.toml"), "--out", str(folder / "run")])
        assert exit_code() == 0
    return folder / "run"


@pytest.fixture
def evaluate(mtdiff, trained, tmp_path):
    """Judge labels that are read from a few pictures; gives the exit code, stderr and the figures that were found."""

    def call(*arguments):
        quick = ["--num", 8, "--no-bound", "--fewer-steps", "", "--direction", "image", "--out", tmp_path / "out"]
        code, _, err = mtdiff("evaluate", trained, *quick, *arguments)
        file = tmp_path / "out" / "evaluation.json"
        found = json.loads(file.read_text())["directions"][0]["figures"] if file.exists() else []
        return code, err, [figure["name"] for figure in found]

    return call


def test_a_metric_that_is_but_for_one_thing_well_is_not_well(install, evaluate, caplog):
    broken(install, judges("needs", "needs"))
    code, err, figures = evaluate()
    assert (code, "mine" in err, said_in(caplog)) == (0, False, "")
    assert {"accuracy", "mine"} <= set(figures)


@pytest.mark.parametrize("title", UNASKED)
def test_a_metric_that_nobody_asked_for_ends_an_evaluation_or_is_missed_in_silence(install, evaluate, caplog, title):
    broken(install, UNASKED[title])
    code, err, figures = evaluate()
    effect, message = rows()[title]
    assert (effect, code) == ("goes on", 0)
    assert message in [said_in(caplog), *(shown(line) for line in err.splitlines())]
    assert "mine" not in figures
    assert ("accuracy" in figures) == ("accuracy" not in message), "two plugins use that name, and none is chosen"


@pytest.mark.parametrize("title", ASKED)
def test_a_metric_that_is_asked_for_is_passed_over_or_refused_without_its_plugin(install, evaluate, title):
    broken(install, ASKED[title])
    code, err, figures = evaluate("--metric", "mine")
    effect, message = rows()[title]
    assert (effect, code, figures) == ("is refused, exit code 2", 2, [])
    assert shown(err[err.index("error: ") :]) == message


def test_a_metric_that_is_asked_for_fails_without_its_plugin(install, evaluate):
    ((title, source),) = ASKED_AND_FAILING.items()
    broken(install, source)
    code, err, figures = evaluate("--metric", "mine")
    assert (code, figures, rows()[title][0]) == (1, [], "fails, exit code 1")
    assert shown(err[err.index("error: ") :]) == rows()[title][1]
    assert "in update of metric 'mine' of plugin 'broken'" in err


def test_an_option_is_refused_of_a_metric_that_is_not_made_without_it(install, evaluate):
    broken(install, UNASKED["A metric that is not asked for needs an option"])
    code, err, figures = evaluate("--set", "mine.file=here")
    assert (code, "mine" in figures) == (0, True), err
    code, err, _ = evaluate("--set", "mine.fiel=here")
    assert code == 2
    assert "mine.fiel: unknown key" in err
