"""`mtdiff plugins check`: what an author of a plugin reads, and the exit code that a script goes by."""

import sys
from textwrap import dedent

import pytest

from mtdiff_core.testing import registry

SOURCES = """
    import torch

    from mtdiff_core import DatasetSource, FieldSpec, UserError, component, hookimpl, option
    from mtdiff_core.data.samples import TensorSamples


    @component
    class Numbers(DatasetSource):
        "Numbers."

        def open(self, split):
            fields = {"number": FieldSpec(shape=(), dtype="float32")}
            return TensorSamples(fields, {"number": torch.arange(10.0)})


    @component
    class Wrong(Numbers):
        "Not a number."

        def open(self, split):
            fields = {"number": FieldSpec(shape=(), dtype="float32")}
            return TensorSamples(fields, {"number": torch.full((10,), torch.nan)})


    @component
    class Asking(Numbers):
        "It needs a folder."

        path: str = option(help="the folder")


    @component
    class Elsewhere(Numbers):
        "Numbers that are not there."

        def open(self, split):
            raise UserError("no such folder", "data.path")


    @hookimpl
    def mtdiff_datasets():
        return {CLASSES}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package ``numbers-of-a-test`` with these data sets, or with this source, as pip would leave it."""

    def install(classes, source=SOURCES):
        site = tmp_path / "site"
        information = site / "numbers_of_a_test-1.0.dist-info"
        information.mkdir(parents=True)
        (site / "numbers_of_a_test.py").write_text(dedent(source).replace("CLASSES", classes))
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numbers-of-a-test\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[mtdiff]\nnumbers = numbers_of_a_test\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "numbers_of_a_test", raising=False)

    return install


def rows(text, state):
    return [line for line in text.splitlines() if f" {state}" in line]


def unwrapped(text):
    """What stands in a table's last column, as far as there is nothing beside it."""
    return " ".join(text.split())


def test_a_package_that_keeps_its_promises_is_refused(mtdiff, package):
    package("'numbers': Numbers")
    code, out, _ = mtdiff("plugins", "check", "numbers-of-a-test")
    assert code == 0
    assert "numbers (dataset)" in out
    assert len(rows(out, "ok")) == 7
    assert "skipped nothing: it is not read as a stream" in unwrapped(out)
    assert not rows(out, "failed")


def test_a_broken_promise_is_not_named_or_the_exit_code_says_that_all_is_well(mtdiff, package):
    package("'numbers': Numbers, 'wrong': Wrong")
    code, out, err = mtdiff("plugins", "check", "numbers")
    assert code == 2
    (row,) = rows(out, "failed")
    assert "what is missing is said" in row
    assert "'number' of sample 0 of 'train' is not a number to mend it: leave a field that" in unwrapped(out)
    assert "error: numbers: 1 check failed" in err


def test_a_component_that_was_not_asked_for_is_checked(mtdiff, package):
    package("'numbers': Numbers, 'wrong': Wrong")
    code, out, _ = mtdiff("plugins", "check", "numbers", "--component", "numbers")
    assert code == 0
    assert "wrong" not in out


def test_a_component_that_needs_an_option_counts_as_failed_or_as_well(mtdiff, package):
    package("'asking': Asking")
    code, out, _ = mtdiff("plugins", "check", "numbers")
    assert code == 0
    assert "it needs path: check it in a test of your own, a DatasetKit with options" in unwrapped(out)
    assert "nothing: " not in out
    assert not rows(out, "ok")


def test_a_component_whose_data_is_not_there_counts_as_failed(mtdiff, package):
    package("'elsewhere': Elsewhere")
    code, out, _ = mtdiff("plugins", "check", "numbers")
    assert code == 0
    assert "with these options it cannot be used (data.path: no such folder)" in unwrapped(out)


def test_a_package_that_brings_nothing_to_check_ends_in_a_traceback(mtdiff):
    code, out, _ = mtdiff("plugins", "check", "tensorboard")
    assert (code, out) == (0, "it brings no components, so there is nothing to check\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["numbersoftest"], "no package or plugin is called 'numbersoftest'"),
        ([""], "no package or plugin is called ''"),
        (["numbers", "--component", "numbres"], "numbers brings no component 'numbres'"),
    ],
)
def test_a_misspelt_name_is_answered_without_the_right_one(mtdiff, package, arguments, message):
    package("'numbers': Numbers")
    code, _, err = mtdiff("plugins", "check", *arguments)
    assert code == 2
    assert message in err
    assert "numbers" in err.split(message)[1]


def test_a_package_that_cannot_be_loaded_passes(mtdiff, package):
    package("", source="import no_such_module\n")
    code, _, err = mtdiff("plugins", "check", "numbers-of-a-test")
    assert code == 2
    assert "is left out: ModuleNotFoundError: No module named 'no_such_module'" in err


RAISING = """
    import sys

    from mtdiff_core import DatasetSource, component, hookimpl


    @component
    class Missing(DatasetSource):
        "A file that is not there."

        def open(self, split):
            raise FileNotFoundError("numbers.bin")


    @component
    class Quitting(DatasetSource):
        "It ends the program."

        def open(self, split):
            sys.exit(0)


    @hookimpl
    def mtdiff_datasets():
        return {CLASSES}
"""


@pytest.mark.parametrize(
    ("cls", "said"), [("Missing", "FileNotFoundError: numbers.bin (in"), ("Quitting", "SystemExit: 0 (in")]
)
def test_a_data_set_that_cannot_be_opened_ends_the_command(mtdiff, package, cls, said):
    package(f"'mine': {cls}", RAISING)
    code, out, err = mtdiff("plugins", "check", "numbers")
    assert code == 2
    assert said in unwrapped(out)
    assert len(rows(out, "failed")) == 6
    assert "6 checks failed" in err
    assert "Traceback" not in err


ASKING = """
    import attrs

    from mtdiff_core import Aggregator, FieldSpec, Modality, UserError, component, hookimpl, option
    from mtdiff_core.aggregators.blocks import BlocksAggregator


    @component
    class Mixing(BlocksAggregator):
        "It asks for a strength of each modality."

        @component
        class ModalityOptions(BlocksAggregator.ModalityOptions):
            strength: float = option(help="how much")


    @component
    class Film(Modality):
        "A field that no other modality has."

        def check(self, spec):
            if len(spec.shape) != 4:
                raise UserError("needs a film")

        def encoder(self, slot): ...
        def decoder(self, slot, features): ...
        def prepare(self, values, generator): ...
        def natural(self, values): ...
        def parse(self, text): ...


    @hookimpl
    def HOOK():
        return {"mine": CLASSES}
"""


@pytest.mark.parametrize(
    ("cls", "hook", "said"),
    [
        (
            "Mixing",
            "mtdiff_aggregators",
            "needs strength: check it in a test of your own, a AggregatorKit with modality_",
        ),
        (
            "Film",
            "mtdiff_modalities",
            "that the kit does not know: check it in a test of your own, a ModalityKit with fie",
        ),
    ],
)
def test_what_cannot_be_checked_without_its_author_counts_as_failed(mtdiff, package, cls, hook, said):
    package(cls, ASKING.replace("HOOK", hook))
    code, out, _ = mtdiff("plugins", "check", "numbers")
    assert code == 0
    assert said in unwrapped(out)


def test_of_two_components_of_one_name_one_is_not_shown(mtdiff, package, tmp_path):
    package("'numbers': Wrong")
    (tmp_path / "site" / "other_numbers.py").write_text(dedent(SOURCES).replace("CLASSES", "'numbers': Numbers"))
    points = tmp_path / "site" / "numbers_of_a_test-1.0.dist-info" / "entry_points.txt"
    points.write_text("[mtdiff]\nfirst = numbers_of_a_test\nsecond = other_numbers\n")
    code, out, _ = mtdiff("plugins", "check", "numbers-of-a-test")
    assert code == 2
    assert out.count("numbers (dataset)") == 2
    assert len(rows(out, "failed")) == 1


def test_a_plugin_that_was_left_out_is_imported_to_check_another(mtdiff, package):
    package("'numbers': Numbers", SOURCES + "\n    raise SystemExit('imported')\n")
    registry.cache_clear()
    code, _, err = mtdiff("--disable", "numbers", "plugins", "check", "image", "--component", "digits")
    assert code == 0, err
    assert "numbers_of_a_test" not in sys.modules
    assert registry.cache_info().currsize == 0, "plugins were looked for anew"
