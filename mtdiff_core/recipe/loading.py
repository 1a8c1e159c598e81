"""Recipes from files."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff_core.errors import UserError
from mtdiff_core.files import read_text
from mtdiff_core.recipe.builder import build_recipe

if TYPE_CHECKING:
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The TOML file.
        registry: Where its components are looked up.
        overrides: ``key.path=value`` each, as after ``--set``.

    Raises:
        UserError: Everything that is wrong with it, each with its key path.
    """
    tables = read_tables(path)
    for override in overrides:
        apply_override(tables, override)
    return build_recipe(tables, registry, str(path) + (" with --set" if overrides else ""))


def read_tables(path: Path) -> dict[str, Any]:
    """The nested tables of a TOML file.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of thousands of digits
        raise UserError(f"is not valid TOML ({error})", str(path)) from error


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Set one key, ``a.b=value``. The value is read as TOML; what is not TOML is taken as text.

    Raises:
        UserError: This is no such assignment, or the path leads through a value.
    """
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise UserError(f"{override!r} is no setting", "--set", "expected key=value, such as train.steps=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    table = tables
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{override!r} goes through {part!r}, which is a value and no section", "--set")
    table[path[-1]] = value
