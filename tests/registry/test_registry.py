"""Plugins, well and broken: what is found, what is refused, and that nothing broken hurts anything else."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.recipe.sections import BackboneOptions, DataOptions, DiffusionOptions, ModalityOptions, SpaceOptions
from mtdiff_core.registry.checks import RESERVED
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.registry.plugin import Plugin, owner_of, raised_by
from mtdiff_core.registry.registry import Registry
from mtdiff_core.registry.run_info import RunInfo

GOOD = """
    from mtdiff_core import DatasetSource, component, hookimpl, option

    @component
    class Source(DatasetSource):
        "A data set."
        size: int = option(1, help="size")
        def open(self, split): ...

    @hookimpl
    def mtdiff_datasets():
        return {NAME: Source}
"""


def good(name, more=""):
    return dedent(GOOD.replace("NAME", repr(name))) + dedent(more)


def plugin_of(registry, name):
    (plugin,) = [plugin for plugin in registry.plugins if plugin.name == name]
    return plugin


def test_a_misspelt_hook_is_reported_and_not_passed_in_silence(install):
    install(
        "misspelt",
        """
        from mtdiff_core import hookimpl
        @hookimpl
        def mtdiff_modalitys(): return {}
        """,
    )
    plugin = plugin_of(Registry(), "misspelt")
    assert str(plugin) == "plugin 'misspelt' of misspelt-package 1.0"
    assert "there is no hook 'mtdiff_modalitys'; did you mean 'mtdiff_modalities'? allowed:" in plugin.reason


def test_a_hook_of_a_later_version_may_be_marked_as_optional(install):
    source = good(
        "some-set",
        """
    @hookimpl(optionalhook=True)
    def mtdiff_hook_of_tomorrow(): ...
    """,
    )
    registry = Registry(install("ahead", source))
    assert registry.names("dataset") == ["some-set"]


def test_a_component_that_is_missing_because_its_plugin_broke_is_explained_where_it_is_asked_for(install):
    install("mask_plugin", "import no_such_module", plugin="mask", distribution="mtdiff-mask", version="2.1")
    with pytest.raises(UserError) as raised:
        Registry().get("modality", "mask")
    assert str(raised.value).startswith("no modality is called 'mask'")
    assert "plugin 'mask' of mtdiff-mask 2.1 is left out: " in str(raised.value)
    assert "No module named 'no_such_module'" in str(raised.value)


def test_ctrl_c_while_a_plugin_is_imported_is_not_taken_for_a_broken_plugin(install):
    points = install("stopped", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry(points)


def test_a_plugin_that_is_wrong_in_one_hook_is_undone_as_a_whole(install, caplog):
    half = good(
        "half-set",
        """
    @hookimpl
    def mtdiff_modalities():
        return {"half": Source}

    @hookimpl
    def mtdiff_run_finished(run, step):
        raise RuntimeError("a plugin that was left out was called")
    """,
    )
    registry = Registry([*install("half", half), *install("whole", good("whole-set"))])
    assert "'half' must be a subclass of mtdiff_core.Modality" in plugin_of(registry, "half").reason
    assert registry.names("dataset") == ["whole-set"]
    registry.notify("mtdiff_run_finished", run=None, step=0)
    assert not caplog.records


def test_a_broken_plugins_components_are_gone_even_if_only_its_last_hook_is_misspelt(install):
    source = good(
        "half-set",
        """
    @hookimpl
    def mtdiff_metric(): ...
    """,
    )
    registry = Registry(install("half", source))
    assert registry.names("dataset") == []
    assert "there is no hook 'mtdiff_metric'" in str(plugin_of(registry, "half").error)


def test_two_distributions_with_one_plugin_name_are_both_loaded(install):
    install("first", good("one"), plugin="extra", distribution="dist-a")
    install("second", good("two"), plugin="extra", distribution="dist-b")
    registry = Registry()
    owners = [p.distribution for p in registry.plugins if p.name == "extra"]
    assert owners == ["dist-a 1.0", "dist-b 1.0"]
    assert {"one", "two"} <= set(registry.names("dataset"))


def test_two_plugins_with_one_component_name_are_an_error_that_names_both_and_the_remedy(install):
    install("rival", good("digits"), distribution="rival-digits", version="0.3")
    registry = Registry()
    with pytest.raises(UserError) as raised:
        registry.get("dataset", "digits")
    message = str(raised.value)
    assert "plugin 'image' of mtdiff" in message
    assert "plugin 'rival' of rival-digits 0.3" in message
    assert "choose one: 'image/digits' or 'rival/digits'" in message
    assert registry.get("dataset", "rival/digits").plugin.name == "rival"
    assert registry.get("dataset", "image/digits").plugin.name == "image"
    assert registry.get("dataset", "image-folder").plugin.name == "image", "other names are not in doubt"


def test_a_recipe_chooses_between_two_plugins_by_plugin_and_name(install, tiny):
    from mtdiff_core.recipe.loading import load_recipe

    install("rival", good("digits"))
    registry = Registry()
    with pytest.raises(UserError, match=r"data.dataset: .* both bring a dataset called 'digits'"):
        load_recipe(tiny, registry)
    chosen = load_recipe(tiny, registry, ["data.dataset=rival/digits", "data.size=8"])
    assert type(chosen.dataset).__module__ == "rival"
    assert chosen.to_tables()["data"]["dataset"] == "rival/digits", "a resumed run would be in doubt again"


def test_two_plugins_of_one_name_cannot_be_told_apart_by_their_distributions(install):
    found = [*install("one", good("mine"), plugin="same"), *install("two", good("mine"), plugin="same")]
    registry = Registry(found)
    with pytest.raises(UserError, match="choose one: 'one-package/mine' or 'two-package/mine'"):
        registry.get("dataset", "mine")
    assert registry.get("dataset", "two-package/mine").plugin.distribution == "two-package 1.0"


def test_a_plugin_that_is_found_twice_loses_its_first_copy(install):
    found = install("one", good("mine"))
    registry = Registry([*found, *found])
    assert [plugin.error is None for plugin in registry.plugins] == [True, False]
    assert "found twice" in registry.plugins[1].reason
    assert registry.get("dataset", "mine").plugin is registry.plugins[0]


def test_the_error_of_a_broken_plugin_is_not_chained_for_debugging(install):
    registry = Registry(install("broken", "import no_such_module"))
    with pytest.raises(UserError) as caught:
        registry.get("dataset", "mine")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_reserved_key_is_not_one_of_the_recipes_own():
    own = {
        "dataset": DataOptions,
        "aggregator": SpaceOptions,
        "modality": ModalityOptions,
        "backbone": BackboneOptions,
        "schedule": DiffusionOptions,
    }
    assert {kind: frozenset(options_of(cls)) for kind, cls in own.items()} == RESERVED


def test_a_name_of_another_kind_is_not_found(registry):
    with pytest.raises(UserError, match="no dataset is called 'label'"):
        registry.get("dataset", "label")


def test_a_misspelt_name_is_answered_with_the_nearest_and_all_allowed(registry):
    with pytest.raises(UserError) as raised:
        registry.get("schedule", "cosin")
    assert "did you mean 'cosine'? allowed: cosine, linear, rectified-flow" in str(raised.value)


def test_our_own_plugins_are_all_well_and_come_first(registry, install):
    install("aaa", good("aaa-set"))
    plugins = Registry().plugins
    assert [plugin.reason for plugin in plugins] == [""] * len(plugins)
    own = [plugin.distribution.startswith("mtdiff ") for plugin in plugins]
    assert own == sorted(own, reverse=True)
    assert own.count(True) == len(registry.plugins)


RUN = RunInfo(name="x", directory=Path("runs/x/1"), total_steps=2, modalities=("image",))

LISTENER = """
    from mtdiff_core import hookimpl
    calls = []

    @hookimpl
    def mtdiff_step_finished(step):
        calls.append(("step", step))
        {step}

    @hookimpl
    def mtdiff_run_finished(run, step):
        calls.append(("finished", run.name, step))
"""


def test_a_lifecycle_hook_that_raises_is_reported_once_and_left_out_while_the_rest_go_on(install, caplog):
    broken = install("bad_listener", LISTENER.format(step="raise ZeroDivisionError('division by zero')"))
    well = install("good_listener", LISTENER.format(step="pass"))
    registry = Registry([*broken, *well])
    for step in (1, 2):
        registry.notify("mtdiff_step_finished", run=RUN, step=step, scalars={})
    registry.notify("mtdiff_run_finished", run=RUN, step=2)
    assert sys.modules["bad_listener"].calls == [("step", 1)]
    assert sys.modules["good_listener"].calls == [("step", 1), ("step", 2), ("finished", "x", 2)]
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("plugin 'bad_listener' of bad_listener-package 1.0 failed in mtdiff_step_finished")
    assert "ZeroDivisionError: division by zero" in message


def test_a_user_error_in_a_lifecycle_hook_ends_the_run_and_does_not_blame_the_plugin(install, caplog):
    source = LISTENER.format(step="from mtdiff_core import UserError; raise UserError('the disk is full')")
    registry = Registry(install("full_disk", source))
    with pytest.raises(UserError, match="the disk is full"):
        registry.notify("mtdiff_step_finished", run=RUN, step=1, scalars={})
    registry.notify("mtdiff_run_finished", run=RUN, step=1)
    assert sys.modules["full_disk"].calls == [("step", 1), ("finished", "x", 1)]
    assert not caplog.records


def test_who_refuses_keeps_others_from_hearing_it(install):
    refuses = "from mtdiff_core import UserError; raise UserError('the disk is full')"
    points = [*install("first", LISTENER.format(step=refuses)), *install("second", LISTENER.format(step=refuses))]
    registry = Registry(points)
    with pytest.raises(UserError, match=r"^plugin 'second'"):  # pluggy's order
        registry.notify("mtdiff_step_finished", run=RUN, step=1, scalars={})
    assert [sys.modules[name].calls for name in ("first", "second")] == [[("step", 1)], [("step", 1)]]


def test_who_refuses_where_nobody_may_ends_what_is_under_way_or_is_called_again(install, caplog):
    source = LISTENER.format(step="from mtdiff_core import UserError; raise UserError('the disk is full')")
    registry = Registry(install("full_disk", source))
    for step in (1, 2):
        registry.notify("mtdiff_step_finished", run=RUN, step=step, scalars={}, may_refuse=False)
    assert sys.modules["full_disk"].calls == [("step", 1)]
    assert "the disk is full" in caplog.messages[0]


def test_what_one_listener_does_to_the_scalars_is_what_others_are_told(install):
    source = """
        from mtdiff_core import hookimpl
        told = []
        @hookimpl
        def mtdiff_step_finished(scalars):
            told.append(dict(scalars))
            scalars["note"] = "fine"
            del scalars["loss"]
    """
    registry = Registry([*install("one", source), *install("another", source)])
    registry.notify("mtdiff_step_finished", run=RUN, step=1, scalars={"loss": 0.5})
    assert [sys.modules[name].told for name in ("one", "another")] == [[{"loss": 0.5}]] * 2


def test_what_an_object_was_built_for_is_not_looked_for_in_its_module(install):
    source = """
        from mtdiff_core import hookimpl
        MTDIFF_PLUGIN_API = "9.0"
        class Plugin:
            @hookimpl
            def mtdiff_run_finished(self): ...
        plugin = Plugin()
    """
    info = install("object_of_a_plugin", source, points="mine = object_of_a_plugin:plugin")
    (plugin,) = Registry(metadata.PathDistribution(info).entry_points).plugins
    assert "it was built for plugin API 9.0" in plugin.reason


@pytest.mark.parametrize("module", ["acme.one", "acme.two", "acme.two.deeper"])
def test_of_plugins_in_one_namespace_another_is_blamed(module):
    def plugin(name):
        return Plugin(name=name, package=name, version="1.0", module=f"acme.{name}:plugin")

    assert owner_of(module, [plugin("two"), plugin("one"), plugin("three")]).name == module.split(".")[1]
    assert owner_of("acmes", [plugin("one")]) is None


def test_a_plugin_whose_listener_fails_keeps_its_components(install):
    source = good(
        "some-set",
        """
    @hookimpl
    def mtdiff_run_finished():
        raise RuntimeError
    """,
    )
    registry = Registry(install("both", source))
    registry.notify("mtdiff_run_finished", run=RUN, step=1)
    assert registry.get("dataset", "some-set").name == "some-set"


def test_listeners_are_called_in_pluggys_order_so_that_tryfirst_and_trylast_mean_what_they_say(install):
    source = """
        from mtdiff_core import hookimpl
        @hookimpl(ARGUMENTS)
        def mtdiff_run_finished(run):
            run.append(__name__)
    """
    points = [
        *install("last", source.replace("ARGUMENTS", "trylast=True")),
        *install("first", source.replace("ARGUMENTS", "tryfirst=True")),
        *install("usual", source.replace("ARGUMENTS", "")),
    ]
    heard, heard_by_pluggy = [], []
    registry = Registry(points)
    registry.notify("mtdiff_run_finished", run=heard, step=1)
    registry.manager.hook.mtdiff_run_finished(run=heard_by_pluggy, step=1)
    assert heard == heard_by_pluggy == ["first", "usual", "last"]


class Heard:
    def __init__(self):
        self.steps = []

    @hookimpl
    def mtdiff_step_finished(self, step):
        self.steps.append(step)


def test_an_object_of_our_own_is_called_inside_its_block_only_even_if_the_block_fails():
    registry, heard = Registry([]), Heard()

    def fail():
        registry.notify("mtdiff_step_finished", run=RUN, step=1, scalars={})
        raise RuntimeError

    with pytest.raises(RuntimeError), registry.registered(heard):
        fail()
    registry.notify("mtdiff_step_finished", run=RUN, step=2, scalars={})
    assert heard.steps == [1]


def test_looking_components_up_and_describing_them_does_not_import_torch():
    program = """
import sys
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.registry.checks import KINDS
from mtdiff_core.registry.plugin import raised_by
from mtdiff_core.registry.registry import Registry
registry = Registry()
for kind in KINDS:
    assert registry.names(kind), kind
for component in registry.components():
    options_of(component.cls)
heavy = {"torch", "torchvision", "numpy", "PIL", "tensorboard"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_lies_in_two_places_is_loaded_from_the_one_that_is_not_imported(install, tmp_path, monkeypatch):
    install("one", good("mine"), distribution="twice", version="2.0")
    behind = tmp_path / "behind" / "twice-1.0.dist-info"
    behind.mkdir(parents=True)
    (behind / "METADATA").write_text("Metadata-Version: 2.1\nName: twice\nVersion: 1.0\n")
    (behind / "entry_points.txt").write_text("[mtdiff]\none = one\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.parent)])
    assert plugin_of(Registry(), "one").distribution == "twice 2.0"


def test_a_listener_of_our_own_such_as_a_display_whose_terminal_is_gone_ends_a_run_or_fails_in_silence(caplog):
    class Display:
        @hookimpl
        def mtdiff_step_finished(self):
            raise BrokenPipeError

    registry = Registry([])
    with registry.registered(Display()):
        for step in (1, 2):
            registry.notify("mtdiff_step_finished", run=RUN, step=step, scalars={})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Display failed in mtdiff_step_finished and is left out from here on: BrokenPipeError"]


def raised(call):
    with pytest.raises((ArithmeticError, ValueError, TypeError)) as caught:
        call()
    return caught.value


def test_a_fault_is_blamed_on_another_than_whose_code_raised_it(install):
    source = """
        import json
        from mtdiff_core.suggest import did_you_mean
        def in_itself(): 1 / 0
        def in_a_library(): json.loads("{")
        def in_the_core(): did_you_mean("a", None)
    """
    install("blamed", good("mine", source))
    Registry()
    module = sys.modules["blamed"]
    assert str(raised_by(raised(module.in_itself))) == "plugin 'blamed' of blamed-package 1.0"
    assert str(raised_by(raised(module.in_a_library))) == "plugin 'blamed' of blamed-package 1.0"
    assert raised_by(raised(module.in_the_core)) is None
    assert raised_by(raised(lambda: 1 / 0)) is None
