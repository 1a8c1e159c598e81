"""Finding plugins, keeping a broken one from hurting the others, and looking components up by name.

Our own loop over entry points: pluggy's has nothing around ``load()``, so that one broken package would end every
command, and it drops the second distribution that uses a taken entry-point name without a word.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from textwrap import shorten
from types import ModuleType
from typing import Any

import attrs
import pluggy

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.aggregator import Aggregator
from mtdiff_core.interfaces.backbone import Backbone
from mtdiff_core.interfaces.component import Component, options_of
from mtdiff_core.interfaces.dataset import DatasetSource
from mtdiff_core.interfaces.metric import Metric
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.registry import hookspecs
from mtdiff_core.schedule import NoiseSchedule
from mtdiff_core.suggest import did_you_mean

log = logging.getLogger(__name__)

# Which hook gives which kind of component, and the class that each must derive from.
KINDS: dict[str, type[Component]] = {
    "modality": Modality,
    "aggregator": Aggregator,
    "backbone": Backbone,
    "schedule": NoiseSchedule,
    "dataset": DatasetSource,
    "metric": Metric,
}
# Keys that stand in the same section of a recipe as a component's own (mtdiff_core.recipe.sections).
RESERVED: dict[str, frozenset[str]] = {
    "modality": frozenset({"type", "field", "weight"}),
    "aggregator": frozenset({"anchor", "aggregator"}),
    "backbone": frozenset({"type"}),
    "schedule": frozenset({"schedule", "steps", "conditioning", "observe", "observe_share", "observe_subsets"}),
    "dataset": frozenset({"dataset", "batch_size", "workers", "keep", "complete_share"}),
}
_HOOKS = {
    "modality": "mtdiff_modalities",
    "aggregator": "mtdiff_aggregators",
    "backbone": "mtdiff_backbones",
    "schedule": "mtdiff_schedules",
    "dataset": "mtdiff_datasets",
    "metric": "mtdiff_metrics",
}


@attrs.define(kw_only=True)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        name: The entry point's name.
        distribution: The package that was pip-installed, with its version: ``"mtdiff 0.1.0"``.
        module: What the entry point names.
        hooks: Hooks that it implements.
        error: Why it was left out; None if it is well.
    """

    name: str
    distribution: str
    module: str
    hooks: tuple[str, ...] = ()
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution}"

    @property
    def package(self) -> str:
        """The distribution without its version."""
        return self.distribution.split()[0]

    def answers_to(self, owner: str) -> bool:
        """Whether ``owner/name`` in a recipe means this plugin; "" means any."""
        return owner in ("", self.name, self.package)

    @property
    def reason(self) -> str:
        """The error in one line, "" if there is none."""
        if self.error is None:
            return ""
        return f"{type(self.error).__name__}: {shorten(str(self.error), 400)}"


@attrs.frozen(kw_only=True)
class Registered:
    """A component and the plugin that brought it."""

    kind: str
    name: str
    cls: type[Component]
    plugin: Plugin


class Registry:
    """All plugins and their components.

    Args:
        entry_points: Where to look; the installed ones of the group ``mtdiff`` by default.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._components: list[Registered] = []
        found = metadata.entry_points(group=hookspecs.PROJECT) if entry_points is None else entry_points
        for entry_point in sorted(found, key=_own_first):
            self._load(entry_point)

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        """Load and register one plugin; whatever it does wrong stays with it."""
        package = entry_point.dist
        distribution = f"{package.name} {package.version}" if package else "an unknown distribution"
        plugin = Plugin(name=entry_point.name, distribution=distribution, module=entry_point.value)
        self.plugins.append(plugin)
        try:
            loaded = entry_point.load()
            self._register(plugin, loaded)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit() while it is imported
            plugin.error = error

    def _register(self, plugin: Plugin, loaded: ModuleType | object) -> None:
        """Register a loaded plugin and collect its components; undone as a whole if any of it is wrong."""
        unique = f"{plugin.distribution}:{plugin.name}"
        if self.manager.has_plugin(unique):
            raise ValueError(f"{plugin} was found twice; is its package installed in two places?")
        try:
            self.manager.register(loaded, name=unique)
            callers = self.manager.get_hookcallers(loaded) or []
            _check_hooks(callers)
            plugin.hooks = tuple(sorted(caller.name for caller in callers))
            if not callers:
                raise TypeError(f"{plugin.module} implements no hook; mark its functions with mtdiff_core.hookimpl")
            components = [
                component for kind, hook in _HOOKS.items() for component in self._collect(plugin, unique, kind, hook)
            ]
        except BaseException:
            if self.manager.has_plugin(unique):
                self.manager.unregister(name=unique)
            raise
        self._components += components

    def _collect(self, plugin: Plugin, unique: str, kind: str, hook: str) -> list[Registered]:
        """Components that one plugin gives for one hook."""
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        result = []
        for implementation in implementations:
            if implementation.plugin_name != unique:
                continue
            given = implementation.function()
            if not isinstance(given, dict):
                raise TypeError(f"{hook} must return a dict of names and classes, not {type(given).__name__}")
            for name, cls in given.items():
                _check_component(hook, kind, name, cls)
                result.append(Registered(kind=kind, name=name, cls=cls, plugin=plugin))
        return result

    def components(self, kind: str | None = None) -> list[Registered]:
        """All components, or those of one kind."""
        return [found for found in self._components if kind in (None, found.kind)]

    def names(self, kind: str) -> list[str]:
        """Names of all components of a kind, sorted."""
        return sorted({found.name for found in self.components(kind)})

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
            plugins = {component.plugin.name for component in found}
            telling = "name" if len(plugins) == len(found) else "package"
            choices = " or ".join(repr(f"{getattr(component.plugin, telling)}/{short}") for component in found)
            raise UserError(f"{owners} both bring a {kind} called {short!r}", hint=f"choose one: {choices}")
        if not found:
            hint = did_you_mean(short, self.names(kind))
            failed = [f"{p} could not be loaded ({p.reason})" for p in self.plugins if p.error]
            cause = next((plugin.error for plugin in self.plugins if plugin.error), None)
            raise UserError(f"no {kind} is called {name!r}", hint="\n  ".join([hint, *failed])) from cause
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

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call a lifecycle hook of every plugin; one that raises is reported and left out from then on."""
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):  # pluggy's own order
            wanted = {name: arguments[name] for name in implementation.argnames}
            try:
                implementation.function(*wanted.values())
            except UserError:
                raise  # a full disk, say: not a broken plugin
            except Exception as error:
                self.manager.unregister(name=implementation.plugin_name)
                log.warning(
                    "%s failed in %s and is left out from here on (%s: %s)",
                    implementation.plugin_name, hook, type(error).__name__, error,
                )  # fmt: skip


def _own_first(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
    package = entry_point.dist
    return (package is None or package.name != "mtdiff", package.name if package else "", entry_point.name)


def _check_hooks(callers: Iterable[pluggy.HookCaller]) -> None:
    """Raise ``TypeError`` for a hook that does not exist, or a wrapper; neither would ever be called."""
    for caller in callers:
        implementations = caller.get_hookimpls()
        if any(one.wrapper or one.hookwrapper for one in implementations):
            raise TypeError(f"{caller.name} is implemented as a wrapper; hooks of mtdiff cannot be wrapped")
        if not caller.has_spec() and not all(one.optionalhook for one in implementations):
            hooks = [name for name in vars(hookspecs) if name.startswith("mtdiff_")]
            raise TypeError(f"there is no hook {caller.name!r}; {did_you_mean(caller.name, hooks)}")


def _check_component(hook: str, kind: str, name: Any, cls: Any) -> None:
    """Raise ``TypeError`` unless this is a name and a component class of the right kind."""
    base = KINDS[kind]
    if not isinstance(name, str) or not name or "/" in name:
        raise TypeError(f"{hook}: a component's name must be a text without '/', not {name!r}")
    if not inspect.isclass(cls) or not issubclass(cls, base):
        raise TypeError(f"{hook}: {name!r} must be a subclass of mtdiff_core.{base.__name__}, not {cls!r}")
    if "__attrs_attrs__" not in vars(cls):
        raise TypeError(f"{hook}: class {cls.__name__} of {name!r} lacks the decorator @mtdiff_core.component")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise TypeError(f"{hook}: class {cls.__name__} of {name!r} does not define {missing}")
    _check_options(hook, name, cls.options(), RESERVED.get(kind, frozenset()))
    if issubclass(cls, Aggregator):
        if not hasattr(cls, "ModalityOptions"):
            raise TypeError(f"{hook}: class {cls.__name__} of {name!r} does not say its ModalityOptions")
        _check_options(hook, name, options_of(cls.ModalityOptions), RESERVED["modality"])


def _check_options(hook: str, name: str, options: Iterable[str], reserved: frozenset[str]) -> None:
    """Raise ``TypeError`` for an option whose key means something else in that section."""
    for key in options:
        if key in reserved:
            raise TypeError(f"{hook}: {name!r} has an option {key!r}, which is a key of the recipe's own; rename it")
