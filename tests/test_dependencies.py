"""What is shipped imports nothing that pip would not install with it."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions

from tests.conftest import CLONE

PROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text())
SHIPPED = [CLONE / folder for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
SCRIPTS = {"make_digits.py"}  # wrote what is shipped; nobody imports it
# Which extra a package may use; without it, it says so in words.
EXTRAS = {"mtdiff_diffusers": "diffusers", "mtdiff_representation": "timm"}


def named(requirements):
    """Distributions by their names, as pip compares them."""
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", one)[0]).lower() for one in requirements}


def modules_of(path):
    """The top-level modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def distributions():
    """Distributions by the modules that they bring, as far as they are installed here."""
    return packages_distributions()


def foreign(folder):
    """Whose the modules are that a package needs beside our own."""
    own = {*sys.stdlib_module_names, *(path.name for path in SHIPPED)}
    files = [path for path in folder.rglob("*.py") if path.name not in SCRIPTS]
    modules = {module for path in files for module in modules_of(path)} - own
    # One that is not installed is taken to be called as its module is.
    return {module: named(distributions().get(module, [module])) for module in sorted(modules)}


def test_a_package_imports_what_its_wheel_does_not_ask_for():
    project, undeclared = PROJECT["project"], []
    for folder in SHIPPED:
        declared = named(project["dependencies"])
        if folder.name in EXTRAS:
            declared |= named(project["optional-dependencies"][EXTRAS[folder.name]])
        undeclared += [(folder.name, module) for module, owners in foreign(folder).items() if not owners & declared]
    assert not undeclared, "add it to the dependencies in pyproject.toml"


def test_a_dependency_is_asked_for_that_nothing_imports():
    imported = {owner for folder in SHIPPED for owners in foreign(folder).values() for owner in owners}
    assert not named(PROJECT["project"]["dependencies"]) - imported
