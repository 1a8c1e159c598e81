"""Loading plugins, keeping a broken one from hurting the others, and looking components up by name.

Our own loop over entry points: pluggy's has nothing around ``load()``, so that one broken package would end every
command, and it drops the second distribution that uses a taken entry-point name without a word.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from types import FunctionType, ModuleType
from typing import Any, cast

import pluggy

from mtdiff_core.errors import UserError, located
from mtdiff_core.registry import hookspecs
from mtdiff_core.registry.checks import HOOKS, check_component, check_hooks
from mtdiff_core.registry.plugin import (
    Found,
    Plugin,
    PluginError,
    Registered,
    in_one_line,
    installed,
    own_first,
    plugin_of,
)
from mtdiff_core.registry.plugin_api import DECLARATION, PLUGIN_API, why_unfit
from mtdiff_core.suggest import did_you_mean

log = logging.getLogger(__name__)

DISABLE_VARIABLE = "MTDIFF_DISABLE"


class Registry:
    """All plugins and their components.

    Args:
        entry_points: Where to look; the installed ones of the group ``mtdiff`` by default.
        disable: Names of plugins, or of distributions, that are left out and not even imported. Those that the
            environment variable ``MTDIFF_DISABLE`` names, separated by commas, are left out as well.

    Raises:
        UserError: ``disable`` names what is not installed.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None, disable: Iterable[str] = ()) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        found = installed() if entry_points is None else _of(entry_points)
        self.plugins = [plugin for plugin, _ in found]
        self._components: list[Registered] = []
        self._leave_out(disable)
        for plugin, entry_point in found:
            if entry_point is not None and not plugin.disabled:
                self._load(plugin, entry_point)
        self._note_clashes()

    def _leave_out(self, names: Iterable[str]) -> None:
        """Mark plugins as disabled."""
        named = [name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")]
        for name, origin in [*((name, "--disable") for name in names), *((name, DISABLE_VARIABLE) for name in named)]:
            meant = [plugin for plugin in self.plugins if name and plugin.answers_to(name)]
            for plugin in meant:
                plugin.disabled = plugin.disabled or origin
            if name and not meant:
                hint = did_you_mean(name, sorted({plugin.name for plugin in self.plugins}))
                if origin != DISABLE_VARIABLE:
                    raise UserError(f"no plugin is called {name!r}", origin, hint)
                # What is set for good may name what is installed in some environments only.
                log.warning("%s: no plugin is called %r", origin, name)

    def _load(self, plugin: Plugin, entry_point: metadata.EntryPoint) -> None:
        """Load and register one plugin; whatever it does wrong stays with it."""
        before, start = set(sys.modules), time.perf_counter()
        try:
            self._register(plugin, _imported(entry_point))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit() while it is imported
            plugin.error = error
        plugin.seconds = time.perf_counter() - start
        with suppress(Exception):  # a plugin may put anything where a module is expected
            plugin.imports_torch = _reach_torch(sys.modules.keys() - before)

    def _register(self, plugin: Plugin, loaded: ModuleType | object) -> None:
        """Register a loaded plugin and collect its components; undone as a whole if any of it is wrong."""
        declared = getattr(loaded, DECLARATION, getattr(sys.modules.get(plugin.home), DECLARATION, None))
        if declared is not None:
            if unfit := why_unfit(declared):
                raise PluginError(unfit)
            plugin.built_for = declared
        unique = f"{plugin.distribution}:{plugin.name}"
        if self.manager.has_plugin(unique):
            raise PluginError("it was found twice; is its package installed in two places?")
        if self.manager.is_registered(loaded):
            other = self._plugin(str(self.manager.get_name(loaded)))
            raise PluginError(f"its entry point is {plugin.module!r}, which {other} has as well")
        try:
            self.manager.register(loaded, name=unique)
            callers = self.manager.get_hookcallers(loaded) or []
            check_hooks(callers)
            plugin.hooks = tuple(sorted(caller.name for caller in callers))
            if not callers:
                raise PluginError(f"{plugin.module} implements no hook; mark its functions with mtdiff_core.hookimpl")
            components = [component for kind in HOOKS for component in self._collect(plugin, unique, kind)]
        except BaseException:
            if self.manager.has_plugin(unique):
                self.manager.unregister(name=unique)
            raise
        self._components += components

    def _collect(self, plugin: Plugin, unique: str, kind: str) -> list[Registered]:
        """Components of one kind that one plugin brings."""
        result = []
        for implementation in getattr(self.manager.hook, HOOKS[kind]).get_hookimpls():
            if implementation.plugin_name != unique:
                continue
            given = implementation.function()
            if not isinstance(given, dict):
                raise PluginError(f"{HOOKS[kind]} must return a dict of names and classes, not {type(given).__name__}")
            for name, cls in given.items():
                check_component(kind, name, cls)
                result.append(Registered(kind=kind, name=name, cls=cls, plugin=plugin))
        return result

    def _note_clashes(self) -> None:
        """Tell each plugin which of its components cannot be named alone."""
        for one in self._components:
            others = [c for c in self.components(one.kind) if c.name == one.name and c.plugin is not one.plugin]
            if others:
                owners = " and ".join(str(other.plugin) for other in others)
                full = self._full_name(one, [one, *others])
                one.plugin.clashes += (
                    f"{one.kind} {one.name!r} is also brought by {owners}; recipes say {full!r} for this one",
                )

    def _full_name(self, one: Registered, rivals: list[Registered]) -> str:
        """The shortest name that tells a component from others of its kind and name."""
        plugins = {component.plugin.name for component in rivals}
        return f"{one.plugin.name if len(plugins) == len(rivals) else one.plugin.package}/{one.name}"

    def components(self, kind: str | None = None) -> list[Registered]:
        """All components, or those of one kind."""
        return [found for found in self._components if kind in (None, found.kind)]

    def names(self, kind: str) -> list[str]:
        """Names of all components of a kind, sorted."""
        return sorted({found.name for found in self.components(kind)})

    def left_out(self) -> list[str]:
        """Which plugins were left out, and why; lines for messages about what is missing."""
        broken = [f"{plugin} is left out: {plugin.reason}" for plugin in self.plugins if plugin.state == "failed"]
        reasons = {plugin.reason: None for plugin in self.plugins if plugin.disabled}  # in the order of plugins
        disabled = [
            f"{reason}: {', '.join(plugin.name for plugin in self.plugins if plugin.reason == reason)}"
            for reason in reasons
        ]
        return [*broken, *disabled]

    def get(self, kind: str, name: str) -> Registered:
        """The component of a kind with a name, or with ``owner/name`` where two plugins use one name.

        The owner is a plugin's name, or its distribution's.

        Raises:
            UserError: There is none, with the nearest name, or there are several, with their owners.
        """
        owner, _, short = name.rpartition("/")
        found = [c for c in self.components(kind) if c.name == short and c.plugin.answers_to(owner)]
        if len(found) > 1:
            owners = " and ".join(str(component.plugin) for component in found)
            choices = " or ".join(repr(self._full_name(component, found)) for component in found)
            raise UserError(f"{owners} both bring a {kind} called {short!r}", hint=f"choose one: {choices}")
        if not found:
            hint = did_you_mean(short, self.names(kind))
            cause = next((plugin.error for plugin in self.plugins if plugin.error), None)
            raise UserError(f"no {kind} is called {name!r}", hint="\n  ".join([hint, *self.left_out()])) from cause
        return found[0]

    @contextmanager
    def registered(self, listener: object) -> Iterator[None]:
        """Inside the block the lifecycle hooks of an object of our own are called too."""
        self.manager.register(listener)
        try:
            yield
        finally:
            if self.manager.is_registered(listener):
                self.manager.unregister(listener)

    def notify(self, hook: str, *, may_refuse: bool = True, **arguments: Any) -> None:
        """Call a lifecycle hook of every plugin; one that raises is reported and hears nothing from then on.

        Args:
            hook: Its name.
            may_refuse: Whether a plugin may refuse to go on; one that does is otherwise reported as one that failed.
            arguments: What hooks of this name are called with.

        Raises:
            UserError: A plugin's own: it refuses to go on, for a full disk, say. The message names it. All others are
                called first.
        """
        refused: UserError | None = None
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):  # pluggy's own order
            # Each gets tables of its own: what one changes is not what others are told
            wanted = {name: _own(arguments[name]) for name in implementation.argnames}
            plugin = self._plugin(implementation.plugin_name)
            try:
                with located(str(plugin) if plugin else ""):
                    implementation.function(*wanted.values())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also sys.exit(), which would end the run without a word
                if isinstance(error, UserError) and may_refuse:
                    refused = refused or error
                    continue
                self.manager.unregister(name=implementation.plugin_name)
                which = plugin or type(implementation.plugin).__name__
                log.warning("%s failed in %s and is left out from here on: %s", which, hook, in_one_line(error))
        if refused is not None:
            raise refused

    def _plugin(self, unique: str) -> Plugin | None:
        """The plugin that is registered under a name; None for an object of our own."""
        return next((one for one in self.plugins if unique == f"{one.distribution}:{one.name}"), None)


def _own(argument: Any) -> Any:
    return dict(argument) if isinstance(argument, dict) else argument


def _of(entry_points: Iterable[metadata.EntryPoint]) -> list[Found]:
    return sorted(((plugin_of(point), point) for point in entry_points), key=lambda found: own_first(found[0]))


def _imported(entry_point: metadata.EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        PluginError: It names nothing, or was built for names that this plugin API does not have.
    """
    if not entry_point.pattern.match(entry_point.value):
        raise PluginError(f"its entry point is {entry_point.value!r}, and must be a module, or module:object")
    try:
        return entry_point.load()
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "mtdiff_core":
            raise
        missing = error.msg.partition(" (")[0]  # without the path
        raise PluginError(f"{missing}; this mtdiff has plugin API {PLUGIN_API}") from error


def _reach_torch(modules: Iterable[str]) -> bool:
    """Whether any of these modules, just imported, is torch or has imported it.

    Where torch had been imported before, by another plugin, it shows only in what the modules hold. They are looked at
    without running any of their code: a lazy module would be imported by it.
    """
    return type(sys.modules.get("torch")) is ModuleType and any(
        name == "torch" or any(_is_of_torch(value) for value in list(_held(sys.modules[name]).values()))
        for name in modules
        if issubclass(type(sys.modules.get(name)), ModuleType)
    )


def _held(module: object) -> dict[str, Any]:
    """What a module, or a function, holds by name."""
    return cast("dict[str, Any]", object.__getattribute__(module, "__dict__"))


def _is_of_torch(value: object) -> bool:
    kind = type(value)
    if issubclass(kind, ModuleType):
        homes = [_held(value).get("__name__")]
    elif issubclass(kind, type):
        homes = [type.__getattribute__(cls, "__module__") for cls in type.__getattribute__(value, "__mro__")]
    else:
        homes = [value.__module__] if isinstance(value, FunctionType) else []
    return any(str(home).partition(".")[0] == "torch" for home in homes)
