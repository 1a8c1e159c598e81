"""The recipes that come with the project: inside an installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

from mtdiff_core.errors import UserError
from mtdiff_core.suggest import did_you_mean


def packaged_recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    here = Path(__file__).parent
    installed, clone = here / "packaged_recipes", here.parent / "recipes"
    folder = installed if installed.is_dir() else clone
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
