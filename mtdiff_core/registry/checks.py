"""What a plugin's hooks and components must be like, checked when it is loaded, so that no run fails of it later."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import attrs
import pluggy

from mtdiff_core.interfaces.aggregator import Aggregator
from mtdiff_core.interfaces.backbone import Backbone
from mtdiff_core.interfaces.component import Component, OptionInfo, options_of
from mtdiff_core.interfaces.dataset import DatasetSource
from mtdiff_core.interfaces.metric import Metric
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.registry import hookspecs
from mtdiff_core.registry.plugin import PluginError
from mtdiff_core.schedule import NoiseSchedule
from mtdiff_core.suggest import did_you_mean

# Which hook gives which kind of component, and the class that each must derive from.
HOOKS = {
    "modality": "mtdiff_modalities",
    "aggregator": "mtdiff_aggregators",
    "backbone": "mtdiff_backbones",
    "schedule": "mtdiff_schedules",
    "dataset": "mtdiff_datasets",
    "metric": "mtdiff_metrics",
}
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


def check_hooks(callers: Iterable[pluggy.HookCaller]) -> None:
    """Raise ``PluginError`` for a hook that does not exist, a wrapper, or one whose code would never be run."""
    for caller in callers:
        implementations = caller.get_hookimpls()
        if any(inspect.iscoroutinefunction(one.function) for one in implementations):
            raise PluginError(f"{caller.name} is async: nothing would await it; define it without async")
        if any(inspect.isgeneratorfunction(one.function) for one in implementations if not _wraps(one)):
            raise PluginError(f"{caller.name} has a yield, so that calling it runs nothing; define it without")
        if any(_wraps(one) for one in implementations):
            raise PluginError(f"{caller.name} is implemented as a wrapper; hooks of mtdiff cannot be wrapped")
        if not caller.has_spec() and not all(one.optionalhook for one in implementations):
            hooks = [name for name in vars(hookspecs) if name.startswith("mtdiff_")]
            raise PluginError(f"there is no hook {caller.name!r}; {did_you_mean(caller.name, hooks)}")


def _wraps(implementation: pluggy.HookImpl) -> bool:
    return implementation.wrapper or implementation.hookwrapper


def check_component(kind: str, name: Any, cls: Any) -> None:
    """Raise ``PluginError`` unless this is a name and a component class of the right kind."""
    hook, base = HOOKS[kind], KINDS[kind]
    if not isinstance(name, str) or not name or "/" in name:
        raise PluginError(f"{hook}: a component's name must be a text without '/', not {name!r}")
    if not inspect.isclass(cls) or not issubclass(cls, base):
        raise PluginError(f"{hook}: {name!r} must be a subclass of mtdiff_core.{base.__name__}, not {cls!r}")
    which = f"{hook}: class {cls.__name__} of {name!r}"
    if "__attrs_attrs__" not in vars(cls):
        raise PluginError(f"{which} lacks the decorator @mtdiff_core.component")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise PluginError(f"{which} does not define {missing}")
    check_methods(which, base, cls)
    _check_options(f"{hook}: {name!r}", cls.options(), RESERVED.get(kind, frozenset()))
    for field in attrs.fields(cls):  # type: ignore[arg-type]
        if field.init and field.default is attrs.NOTHING and field.name not in cls.options():
            raise PluginError(
                f"{which} needs {field.name!r}, which no recipe can give; declare it with mtdiff_core.option"
            )
    if issubclass(cls, Aggregator):
        if not hasattr(cls, "ModalityOptions"):
            raise PluginError(f"{which} does not say its ModalityOptions")
        _check_options(f"{hook}: {name!r}", options_of(cls.ModalityOptions), RESERVED["modality"])
    if issubclass(cls, Metric) and not hasattr(cls, "needs"):
        raise PluginError(f"{which} does not say what it needs")
    if issubclass(cls, Modality) and cls.one_to_one and cls.anchor_shape is Modality.anchor_shape:
        raise PluginError(f"{which} is one_to_one and does not define anchor_shape")


def check_methods(which: str, base: type, cls: type) -> None:
    """Raise ``PluginError`` for a method that cannot be called as the base class's, such as one of an older API."""
    for name, ours in vars(base).items():
        theirs = inspect.getattr_static(cls, name)
        if name.startswith("_") or not isinstance(ours, FunctionType):
            continue
        if theirs is ours:
            if getattr(ours, "__isabstractmethod__", False):  # nothing enforces it in networks
                raise PluginError(f"{which} does not define {name}")
            continue
        called = list(inspect.signature(ours).parameters.values())
        if not callable(getattr(cls, name)):
            raise PluginError(f"{which} has {name} = {theirs!r} in place of a method {_spelled(name, called)}")
        if not isinstance(theirs, FunctionType):  # a static method, say: called without self
            called = called[1:]
        signature = inspect.signature(getattr(cls, name))
        try:
            signature.bind(*called)
        except TypeError:
            defined = _spelled(name, signature.parameters.values())
            raise PluginError(f"{which} defines {defined}, and it is called as {_spelled(name, called)}") from None


def _spelled(name: str, parameters: Iterable[inspect.Parameter]) -> str:
    return f"{name}({', '.join(str(one.replace(annotation=one.empty)) for one in parameters)})"


def _check_options(which: str, options: dict[str, OptionInfo], reserved: frozenset[str]) -> None:
    """Raise ``PluginError`` for an option whose key means something else in that section, or with a wrong default."""
    for key, info in options.items():
        if key in reserved:
            raise PluginError(f"{which} has an option {key!r}, which is a key of the recipe's own; rename it")
        if key.startswith("_"):
            raise PluginError(f"{which} has an option {key!r}; a key of a recipe begins with a letter")
        if not isinstance(info.help, str):
            raise PluginError(f"{which}: the help of its option {key!r} must be a text, not {info.help!r}")
        if not _writable(info.type):
            raise PluginError(
                f"{which}: no value of TOML is a {info.type!r}, the type of its option {key!r}; "
                "use int, float, str, bool, tuple[T, ...] or dict[str, T] of these"
            )
        if not info.required:
            default = f"{which}: the default of its option {key!r}"
            if not _fits(info.default, info.type):
                raise PluginError(f"{default} is {info.default!r}, and not of its type, {_type_name(info.type)}")
            try:
                info.check(info.default)
            except (TypeError, ValueError) as error:
                raise PluginError(f"{default} is not allowed: {error}") from error


def _writable(kind: Any) -> bool:
    """Whether recipes can give a value of this type (``mtdiff_core.recipe.values`` reads them)."""
    match getattr(kind, "__origin__", kind), getattr(kind, "__args__", ()):
        case builtins.tuple, (entry, builtins.Ellipsis):
            return _writable(entry)
        case builtins.dict, (builtins.str, entry):
            return _writable(entry)
    return kind in (int, float, str, bool)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of such a type, as one is that a recipe gives."""
    match getattr(kind, "__origin__", kind), getattr(kind, "__args__", ()):
        case builtins.tuple, (entry, _):
            return isinstance(value, tuple | list) and all(_fits(one, entry) for one in value)
        case builtins.dict, (_, entry):
            return isinstance(value, dict) and all(isinstance(k, str) and _fits(one, entry) for k, one in value.items())
    accepted = (int, float) if kind is float else kind
    return isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
