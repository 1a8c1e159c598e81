"""``mtdiff plugins``: the state of each plugin with its reason, what loading it took, and how to leave one out."""

import re
import shlex
import tomllib
from textwrap import dedent

import pytest

from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.recipe.example import example_of
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.recipe.metrics import build_metrics
from mtdiff_core.registry.checks import RESERVED
from mtdiff_core.registry.plugin_api import PLUGIN_API, why_unfit
from mtdiff_core.registry.registry import Registry
from tests.conftest import CLONE

OURS = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["entry-points"]["mtdiff"]
GOOD = """
    from mtdiff_core import DatasetSource, component, hookimpl
    MTDIFF_PLUGIN_API = "1.0"
    @component
    class Source(DatasetSource):
        "A data set."
        def open(self, split): ...
    @hookimpl
    def mtdiff_datasets(): return {NAME: Source}
    @hookimpl
    def mtdiff_run_finished(): ...
"""


def good(name="mine", more=""):
    return dedent(more) + dedent(GOOD.replace("NAME", repr(name)))


def row_of(said, name):
    """The lines of one plugin in the table, each in words."""
    lines = [line for line in said.splitlines() if line.strip()]
    (start,) = [number for number, line in enumerate(lines) if line.split()[0] == name]
    row = [lines[start].split()]
    for line in lines[start + 1 :]:
        if not line.startswith(" "):
            break
        row.append(line.split())
    return row


def state_of(name):
    (plugin,) = [plugin for plugin in Registry().plugins if plugin.name == name]
    return plugin.state, plugin.reason


def test_a_plugin_is_listed_without_its_version_hooks_components_or_the_time_it_took(install, mtdiff_beside):
    install("healthy", good(), distribution="healthy-dist", version="4.2")
    done = mtdiff_beside("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = row_of(done.stdout, "healthy")
    assert first[:4] == ["healthy", "healthy-dist", "4.2", "ok"]
    assert re.fullmatch(r"\d+ ms mtdiff_datasets: mine", " ".join(first[4:]))
    assert second == ["mtdiff_run_finished"]
    assert f"plugin API {PLUGIN_API}" in done.stdout


def test_loading_is_said_to_take_no_time(install):
    install("slow", good(more="import time; time.sleep(0.05)"))
    took = {plugin.name: plugin.seconds for plugin in Registry().plugins}
    assert took["slow"] >= 0.05
    assert all(seconds > 0 for seconds in took.values())


def test_a_broken_plugin_ends_the_listing_or_has_no_reason_there(install, mtdiff_beside):
    install("broken", "import no_such_module", distribution="broken-dist", version="4.2")
    done = mtdiff_beside("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = row_of(done.stdout, "broken")
    assert row[:4] == ["broken", "broken-dist", "4.2", "failed"]
    assert " ".join(row[6:]) == "ModuleNotFoundError: No module named 'no_such_module'"
    assert row_of(done.stdout, "label")[0][3] == "ok"


def test_two_plugins_that_use_one_name_are_listed_as_if_nothing_was_wrong(install, mtdiff_beside):
    install("rival", good("digits"))
    said = mtdiff_beside("plugins").stdout
    for name, other, says in (
        ("rival", "plugin 'image' of mtdiff 0.1.0", "rival/digits"),
        ("image", "plugin 'rival' of rival-package 1.0", "image/digits"),
    ):
        row = row_of(said, name)[0]
        assert row[3] == "clash"
        assert " ".join(row[6:]) == f"dataset 'digits' is also brought by {other}; recipes say '{says}' for this one"
    assert row_of(said, "label")[0][3] == "ok"


def test_a_plugin_that_imports_torch_when_it_is_loaded_is_not_named(install, mtdiff_beside):
    install("heavy", good("a", "import torch"))
    install("also_heavy", good("b", "from torch.nn.functional import relu"))
    install("late", good("c", "def use():\n    import torch"))
    said = mtdiff_beside("plugins").stdout
    named = [line.split()[0] for line in said.splitlines() if "imports torch while it is loaded" in line]
    assert named == ["also_heavy", "heavy"]


LAZY = """
import importlib.util, sys
def lazy(name):
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
"""


def test_looking_for_torch_imports_what_a_plugin_imports_late_or_ends_the_command(install, mtdiff_beside):
    install("missing_a_part", "import no_such_module")
    for name, late in (("a", "missing_a_part"), ("b", "torch")):
        # what pluggy looks at is the plugin's own module alone
        install(f"parts_of_{name}", f"{LAZY}\npart = lazy('{late}')", points="")
        install(f"with_{name}", good(name, f"import parts_of_{name}"))
    install("heavy", good("c", "import torch"))
    for others in ((), ("--disable", "heavy")):
        done = mtdiff_beside(*others, "plugins")
        assert done.returncode == 0, done.stderr
        named = [line.split()[0] for line in done.stdout.splitlines() if "imports torch while it is loaded" in line]
        assert named == ([] if others else ["heavy"])
        assert {row_of(done.stdout, f"with_{name}")[0][3] for name in "ab"} == {"ok"}


@pytest.mark.parametrize("name", ["touchy", "touchy-dist", "touchy-dist/touchy"])
@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_disabled_plugin_is_imported_or_named_otherwise(install, mtdiff, monkeypatch, name, way):
    install("touchy", "raise RuntimeError('imported')", distribution="touchy-dist")
    install("other", good())
    if way == "variable":
        monkeypatch.setenv("MTDIFF_DISABLE", f"other, {name}")
    code, said, err = mtdiff(*(["--disable", name] if way == "option" else []), "plugins", "show", "touchy")
    origin = "--disable" if way == "option" else "MTDIFF_DISABLE"
    assert (code, err) == (0, "")
    assert "touchy, a plugin from touchy-dist 1.0: disabled\n" in said
    assert f"  left out by {origin}\n" in said
    assert "RuntimeError" not in said
    assert state_of("other")[0] == ("disabled" if way == "variable" else "ok")


def test_what_a_disabled_plugin_brings_is_missed_without_a_word_about_why(mtdiff, tiny):
    code, _, err = mtdiff("--disable", "label", "--disable", "image", "recipes", "validate", tiny)
    assert code == 2
    assert "modalities.label.type: no modality is called 'label'" in err
    assert "left out by --disable: image, label" in err


def test_a_plugin_that_is_disabled_and_not_there_is_passed_over(mtdiff, monkeypatch, caplog):
    code, _, err = mtdiff("--disable", "labl", "plugins")
    assert code == 2
    assert err.startswith("error: --disable: no plugin is called 'labl'\n  did you mean 'label'? allowed: builtin,")
    monkeypatch.setenv("MTDIFF_DISABLE", "labl,")
    code, _, _ = mtdiff("plugins")
    assert code == 0, "what is set for good may name what is installed elsewhere"
    assert [record.getMessage() for record in caplog.records] == ["MTDIFF_DISABLE: no plugin is called 'labl'"]


def test_a_plugin_is_refused_or_accepted_for_the_wrong_version_of_the_api(monkeypatch):
    monkeypatch.setattr("mtdiff_core.registry.plugin_api.PLUGIN_API", "2.3")
    assert [version for version in ("2.0", "2.3", "2.4", "2.10", "1.9", "3.0") if not why_unfit(version)] == [
        "2.0",
        "2.3",
    ]
    assert why_unfit("2.10").endswith("it needs a newer mtdiff")
    assert why_unfit("1.9").endswith("look for a newer version of the plugin")


def test_a_broken_plugin_cannot_be_looked_into(install, mtdiff):
    install("broken", "x = 1\nimport no_such_module")
    code, said, _ = mtdiff("plugins", "show", "broken")
    assert code == 0
    assert "broken, a plugin from broken-package 1.0: failed" in said
    assert 'broken.py", line 2, in <module>' in said


def test_what_a_plugin_was_built_for_is_not_shown(install, mtdiff):
    install("healthy", good())
    _, said, _ = mtdiff("plugins", "show", "healthy")
    assert "module healthy; built for plugin API 1.0" in said
    assert "  mtdiff_datasets: mine\n" in said
    install("silent", good().replace('MTDIFF_PLUGIN_API = "1.0"', ""))
    _, said, _ = mtdiff("plugins", "show", "silent")
    assert "module silent; does not say what it was built for" in said


def test_a_plugin_of_ours_does_not_say_what_it_was_built_for(registry):
    assert {
        plugin.name: plugin.built_for for plugin in registry.plugins if plugin.package == "mtdiff"
    } == dict.fromkeys(OURS, PLUGIN_API)


def plain(component, given):
    """A component with its defaults, and what has none as it was given."""
    return component.cls(**{name: given[name] for name, info in component.cls.options().items() if info.required})


def test_a_component_or_plugin_that_is_not_there_is_shown(mtdiff):
    code, _, err = mtdiff("plugins", "show", "labl")
    assert code == 2
    assert err.startswith("error: no component or plugin is called 'labl'\n  did you mean 'label'?")


PLACES = {
    "modality": ("modalities", "NAME"),
    "aggregator": ("space",),
    "backbone": ("backbone",),
    "schedule": ("diffusion",),
    "dataset": ("data",),
}
KEYS = {kind: "type" if kind in ("backbone", "modality") else kind for kind in PLACES}


@pytest.mark.parametrize("kind", PLACES)
def test_an_example_in_plugins_show_is_refused_or_says_something_else_than_the_defaults(registry, kind):
    for component in registry.components(kind):
        title, text = example_of(component)
        assert title.startswith("in a recipe")
        assert ("# the data set's field that it reads" in text) == (kind == "modality")
        table = tomllib.loads(text)
        for section in PLACES[kind]:
            table = table[component.name if section == "NAME" else section]
        assert table.pop(KEYS[kind]) == component.name
        for beside in RESERVED[kind]:
            table.pop(beside, None)
        assert list(table) == list(component.cls.options())
        if component.name == "table":
            continue  # needs one of several options, whichever
        made = read_component(table, kind, component.cls, registry, "example")
        assert made == plain(component, table)


def test_an_example_of_an_aggregator_leaves_out_what_it_adds_to_modalities(registry):
    _, text = example_of(registry.get("aggregator", "linear"))
    added = tomllib.loads(text)["modalities"]["other"]
    assert read_component(added, "other", LinearAggregator.ModalityOptions, registry, "example") == (
        LinearAggregator.ModalityOptions()
    )


def test_an_example_in_plugins_show_stands_in_a_section_that_recipes_do_not_have(registry, tiny):
    tables = load_recipe(tiny, registry).to_tables()
    for kind, (section, *_) in PLACES.items():
        assert KEYS[kind] in (tables[section]["label"] if kind == "modality" else tables[section])


def test_an_example_of_a_metric_is_refused_by_evaluate(registry):
    for component in registry.components("metric"):
        _, text = example_of(component)
        words = shlex.split(text)
        assert words[:5] == ["mtdiff", "evaluate", "RUN", "--metric", component.name]
        made = build_metrics([component.name], words[6::2], registry)[component.name]
        assert made == plain(component, {name: getattr(made, name) for name in component.cls.options()})
        assert len(words[6::2]) == len(component.cls.options())
