"""One plugin and what became of it, and how the installed ones are found without loading any."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from importlib import metadata
from itertools import takewhile
from textwrap import shorten
from typing import Literal

import attrs

from mtdiff_core.interfaces.component import Component
from mtdiff_core.registry.hookspecs import PROJECT

Found = tuple["Plugin", metadata.EntryPoint | None]
State = Literal["ok", "failed", "disabled", "clash"]


class PluginError(Exception):
    """What is wrong with a plugin, in one sentence."""


@attrs.define(kw_only=True)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        name: The entry point's name.
        package: The distribution that was pip-installed, "" if that is not known.
        version: Its version, likewise.
        module: What the entry point names.
        built_for: The version of the plugin API that it says it was built for, "" if it does not say.
        hooks: Hooks that it implements.
        error: Why it was left out; None if it is well.
        disabled: What asked for it to be left out, such as ``"--disable"``; "" if nothing did.
        clashes: Of each component whose name another plugin uses too, what to do about it.
        seconds: What loading it took.
        imports_torch: Whether loading it imported torch.
    """

    name: str
    package: str
    version: str
    module: str
    built_for: str = ""
    hooks: tuple[str, ...] = ()
    error: BaseException | None = None
    disabled: str = ""
    clashes: tuple[str, ...] = ()
    seconds: float = 0.0
    imports_torch: bool = False

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution}"

    @property
    def distribution(self) -> str:
        """The distribution with its version: ``"mtdiff 0.1.0"``."""
        return f"{self.package} {self.version}".strip() or "an unknown distribution"

    @property
    def state(self) -> State:
        """What became of it; a clash is to be solved by recipes, and hurts nothing else."""
        if self.disabled:
            return "disabled"
        if self.error is not None:
            return "failed"
        return "clash" if self.clashes else "ok"

    @property
    def reason(self) -> str:
        """Why it was left out, in one line; "" if it was not."""
        if self.disabled:
            return f"left out by {self.disabled}"
        return "" if self.error is None else in_one_line(self.error)

    @property
    def home(self) -> str:
        """The module that its entry point names, or the one that the object it names is in."""
        return self.module.partition(":")[0].strip()

    def answers_to(self, owner: str) -> bool:
        """Whether ``owner`` means this plugin: its name, its distribution's, or ``distribution/name``; "" means any."""
        return owner in ("", self.name, self.package, f"{self.package}/{self.name}")


@attrs.frozen(kw_only=True)
class Registered:
    """A component and the plugin that brought it."""

    kind: str
    name: str
    cls: type[Component]
    plugin: Plugin


def in_one_line(error: BaseException) -> str:
    """An error of a plugin's as people read it, whatever it is made of."""
    kind = type(error).__name__
    try:
        text = shorten(str(error), 400)
    except Exception:  # an error that cannot even be printed is still to be named
        return kind
    if isinstance(error, PluginError):
        return text
    return f"{kind}: {text}" if text else kind


def installed() -> list[Found]:
    """Every plugin that is installed, as far as it can be told; our own first, then by distribution and name.

    importlib's own search ends with a traceback where any package's list of entry points is damaged.
    """
    found: dict[object, list[Found]] = {}
    for package in metadata.distributions():
        try:
            if f"[{PROJECT}]" not in (package.read_text("entry_points.txt") or ""):
                continue
            points: list[Found] = [(plugin_of(point), point) for point in package.entry_points.select(group=PROJECT)]
        except Exception:
            name, version = _named(package)
            damaged = PluginError("its list of entry points, entry_points.txt, is damaged; install the package again")
            points = [(Plugin(name=name, package=name, version=version, module="", error=damaged), None)]
        # What lies first on the path is what would be imported.
        found.setdefault(_named(package)[0] or package, points)
    return sorted((one for points in found.values() for one in points), key=lambda one: own_first(one[0]))


def plugin_of(point: metadata.EntryPoint) -> Plugin:
    """The plugin that an entry point names, not loaded."""
    package, version = _named(point.dist) if point.dist else ("", "")
    return Plugin(name=point.name, package=package, version=version, module=point.value)


def own_first(plugin: Plugin) -> tuple[bool, str, str]:
    """Order of loading: our own, then by distribution and name."""
    return (plugin.package != PROJECT, plugin.package, plugin.name)


def owner_of(module: str, plugins: Iterable[Plugin] | None = None) -> Plugin | None:
    """The plugin whose code a module is part of: the one that shares the most of its dotted name with it.

    Args:
        module: The module's whole name.
        plugins: The plugins that there are; by default all that are installed.
    """

    def shared(plugin: Plugin) -> int:
        pairs = zip(plugin.home.split("."), module.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    there = [plugin for plugin, _ in installed()] if plugins is None else plugins
    nearest = max(there, key=shared, default=None)
    return nearest if nearest is not None and shared(nearest) else None


def raised_by(error: BaseException) -> Plugin | None:
    """The plugin whose code raised an error, itself or in a library that it called; None if it was the core's."""
    plugins = [plugin for plugin, _ in installed()]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "mtdiff_core":
            return None
        if (owner := owner_of(module, plugins)) is not None:
            return owner
    return None


def _named(package: metadata.Distribution) -> tuple[str, str]:
    """Name and version, each "" where they are not to be had, as in a package that was removed by halves."""
    try:
        about = package.metadata
        return str(about["Name"] or ""), str(about["Version"] or "")
    except Exception:
        return "", ""
