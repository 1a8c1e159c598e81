"""Components: everything that a recipe can name. A component's options are its attrs fields, nothing else.

Nothing in this module imports torch, so that components can be listed and described at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

import attrs

T = TypeVar("T")
_OPTION = "mtdiff_option"


@attrs.frozen(kw_only=True)
class OptionInfo:
    """What is known about one option of a component: the source of TOML keys, checks and help."""

    name: str
    type: Any
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    may_change: bool = False

    @property
    def required(self) -> bool:
        """Whether the recipe has to give a value."""
        return self.default is attrs.NOTHING

    def allowed(self) -> str:
        """The allowed values in words, "" if the type says it all."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"from {low} to {high}"
        if low is not None:
            return f"at least {low}"
        return f"at most {high}" if high is not None else ""

    def check(self, value: Any) -> None:
        """Raise ``ValueError`` unless the value, or each entry of a tuple or a table, is allowed."""
        for entry in _entries(value):
            outside = entry is not None and (
                (self.choices and entry not in self.choices)
                # "not (>=)" rather than "<", so that NaN is refused too
                or (self.minimum is not None and not entry >= self.minimum)
                or (self.maximum is not None and not entry <= self.maximum)
            )
            if outside:
                raise ValueError(f"must be {self.allowed()}, not {value!r}")


def _entries(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple) else (value,)


def option(
    default: Any = attrs.NOTHING,
    *,
    factory: Callable[[], Any] | None = None,
    help: str,  # noqa: A002 - the word users of click and argparse expect
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] = (),
    may_change: bool = False,
) -> Any:
    """Declare one option of a component.

    Args:
        default: Value where the recipe is silent; leave out to make the option required.
        factory: Makes the default anew each time, where it is a table.
        help: One line: what it is, and its unit.
        minimum: Smallest allowed number (for a tuple: of each entry), inclusive.
        maximum: Largest allowed number, inclusive.
        choices: The allowed values, if there are only a few.
        may_change: Whether a run may go on with another value: nothing that it computes depends on it.
    """
    if factory is not None:
        default = factory()
    info = OptionInfo(
        name="",
        type=None,
        default=default,
        help=help,
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        may_change=may_change,
    )
    return attrs.field(
        default=default if factory is None else attrs.Factory(factory),
        validator=lambda _instance, _field, value: info.check(value),
        metadata={_OPTION: info},
    )


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option, attrs.field))
def component(cls: type[T]) -> type[T]:
    """Class decorator for components: options are keyword-only, immutable and slotted."""
    return attrs.define(cls, kw_only=True, frozen=True, slots=True)


class Component:
    """Base of everything a recipe can name. Subclasses are decorated with :func:`component`."""

    __slots__ = ()

    @classmethod
    def options(cls) -> dict[str, OptionInfo]:
        """The options by name, in the order of their declaration."""
        return options_of(cls)


def evolved(instance: T, **changes: Any) -> T:
    """A copy with other options.

    Raises:
        ValueError: One of them is not allowed.
    """
    return attrs.evolve(instance, **changes)  # type: ignore[misc]


def options_of(cls: type) -> dict[str, OptionInfo]:
    """The options of any class made with :func:`component`, by name, with their types resolved."""
    attrs.resolve_types(cls)
    return {
        field.name: attrs.evolve(field.metadata[_OPTION], name=field.name, type=field.type)
        for field in attrs.fields(cls)
        if _OPTION in field.metadata
    }


def summary_of(cls: type) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().split("\n")[0]
