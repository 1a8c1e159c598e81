"""What comes with the project and is no code of it: inside an installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

from mtdiff_core.errors import UserError
from mtdiff_core.suggest import did_you_mean


def packaged(name: str) -> Path:
    """The folder ``recipes`` or ``templates``."""
    here = Path(__file__).parent
    installed, clone = here / f"packaged_{name}", here.parent / name
    return installed if installed.is_dir() else clone


def packaged_recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    folder = packaged("recipes")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.toml"))}


def find_recipe(text: str) -> Path:
    """A recipe by path, or a shipped one by name.

    Raises:
        UserError: There is neither.
    """
    path = Path(text)
    if path.is_file():
        return path
    shipped = packaged_recipes()
    name = text.removeprefix("recipes/").removesuffix(".toml")
    if name in shipped:
        return shipped[name]
    raise UserError("is no recipe file, and no shipped recipe has this name", text, did_you_mean(name, list(shipped)))
