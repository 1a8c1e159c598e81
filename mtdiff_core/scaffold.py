"""A plugin package to begin one's own from: templates with the plugin's name put in, written whole or not at all."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
from pathlib import Path

import mtdiff_core
from mtdiff_core.errors import UserError
from mtdiff_core.files import explained
from mtdiff_core.packaged import packaged

KINDS = ("modality", "dataset", "metric", "backbone", "aggregator", "logger")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Write a package whose plugin, and whose component of this kind, has this name.

    Args:
        name: Lower-case letters, digits and -, such as ``"heart-rate"``.
        kind: One of ``KINDS``.
        folder: The package's folder, which does not exist yet.

    Returns:
        The files, relative to the folder.

    Raises:
        UserError: The name cannot be one, or means something else already; the folder exists, or cannot be written.
    """
    template = packaged("templates") / kind
    words = _words_for(name, template)
    if folder.exists() or folder.is_symlink():
        raise UserError("exists already, and nothing in it is changed", str(folder), "name another place with --out")
    aside = folder.with_name(f".{folder.name}.partial")
    with explained("cannot write the package", folder.parent):
        try:
            shutil.rmtree(aside, ignore_errors=True)  # left by one that was killed
            written = [_write(path, template, aside, words) for path in sorted(template.rglob("*")) if _belongs(path)]
            aside.rename(folder)
        except BaseException:  # also Ctrl-C
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return written


def _words_for(name: str, template: Path) -> dict[str, str]:
    """What stands in place of each of the templates' own names.

    Raises:
        UserError: The name cannot be one, or means something else already.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a plugin's name", hint="use a-z, 0-9 and -, such as heart-rate")
    module, cls = f"mtdiff_{name.replace('-', '_')}", "".join(map(str.capitalize, name.split("-")))
    if importlib.util.find_spec(module) is not None:
        raise UserError(f"there is a module {module} already", hint="choose another name, or uninstall it")
    sources = "".join(path.read_text(encoding="utf-8") for path in template.rglob("*.py"))
    # Whatever the template defines or imports by this name would be meant by one of the two
    if keyword.iskeyword(cls) or cls in dir(mtdiff_core) or re.search(rf"\b{cls}\b", sources):
        raise UserError(
            f"{cls} means something else in Python, in mtdiff or in the template", hint="choose another name"
        )
    return {"plugin-name": name, "plugin_name": name.replace("-", "_"), "PluginName": cls}


def _belongs(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc"


def _write(path: Path, template: Path, folder: Path, words: dict[str, str]) -> Path:
    """Write one file of a template; gives its place in the folder."""
    place = Path(_with(words, path.relative_to(template).as_posix()))
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text(_with(words, path.read_text(encoding="utf-8")), encoding="utf-8")
    return place


def _with(words: dict[str, str], text: str) -> str:
    return re.sub("|".join(words), lambda found: words[found[0]], text)
