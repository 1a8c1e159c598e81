"""`mtdiff plugins check`: what an author of a plugin reads, and the exit code that a script goes by."""

import sys
from textwrap import dedent

import pytest

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
