"""What all kits share: a check is a method ``test_...`` that pytest runs, and that can be run without it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import SkipTest

import attrs

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import Component
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.registry.checks import KINDS
from mtdiff_core.registry.registry import Registry

K = TypeVar("K", bound="Kit")
HERE = Path(__file__).parent


class CheckFailure(AssertionError):  # noqa: N818 - it reads as what it is in pytest's summary
    """A component does not keep a promise.

    Args:
        what: What is wrong.
        mend: What to do about it.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}\n  to mend it: {mend}")


class UnknownFieldError(CheckFailure):
    """The kit cannot tell what field a modality reads."""


@attrs.frozen(kw_only=True)
class CheckResult:
    """What became of one check.

    Attributes:
        name: The check in words, such as ``"batch of one"``.
        passed: Whether the component keeps the promise; also True where that could not be looked at.
        skipped_reason: Why it could not be looked at, "" if it was.
        message: What is wrong and how to mend it, "" if nothing is.
    """

    name: str
    passed: bool
    skipped_reason: str = ""
    message: str = ""


def require(holds: bool, what: str, mend: str) -> None:
    """Raise :class:`CheckFailure` unless something holds."""
    __tracebackhide__ = True
    if not holds:
        raise CheckFailure(what, mend)


def skip(reason: str) -> SkipTest:
    """What to raise where a check has nothing to look at; pytest knows it too."""
    return SkipTest(reason)


def check(mend: str) -> Callable[[Callable[[K], None]], Callable[[K], None]]:
    """Decorator of a check: whatever the component raises in it becomes a failure that says where.

    Args:
        mend: What to do about an exception.
    """

    def decorate(method: Callable[[K], None]) -> Callable[[K], None]:
        @wraps(method)
        def checked(self: K) -> None:
            __tracebackhide__ = True
            try:
                method(self)
            except (CheckFailure, SkipTest):
                raise
            except (Exception, SystemExit) as error:  # one that leaves would end all checks as if they had passed
                # A UserError says on further lines what would be right.
                said = str(error) if isinstance(error, UserError) else str(error).strip().split("\n")[0]
                raise CheckFailure(f"{type(error).__name__}: {said}{_place(error)}", mend) from error

        return checked

    return decorate


def _place(error: BaseException) -> str:
    """The innermost line of code that is neither the kit's nor that of a library it works with."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not path.is_relative_to(HERE) and "site-packages" not in path.parts and path.exists():
            return f" (in {path.name}, line {frame.lineno})"
    return ""


class Kit:
    """Checks of one component. Subclass the kit of its kind in a test file, in a class whose name begins with Test.

    Attributes:
        kind: The kind of component, a key of ``KINDS``.
        component: The name that it is registered under, ``owner/name`` where two plugins use one name; or its class.
        options: Its options, as in a recipe's table.
    """

    kind: ClassVar[str]
    component: ClassVar[str | type[Component]]
    options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def check_names(cls) -> list[str]:
        """The methods that are checks, in the order in which they are defined, those of base classes first."""
        names: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            names |= {name: None for name in vars(base) if name.startswith("test_")}
        return list(names)

    @classmethod
    def run(cls) -> list[CheckResult]:
        """Run all checks, without pytest."""
        return [cls._run(name) for name in cls.check_names()]

    @classmethod
    def _run(cls, method: str) -> CheckResult:
        name = method.removeprefix("test_").replace("_", " ")
        try:
            getattr(cls(), method)()
        except SkipTest as reason:
            return CheckResult(name=name, passed=True, skipped_reason=str(reason))
        except CheckFailure as failure:
            return CheckResult(name=name, passed=False, message=str(failure))
        return CheckResult(name=name, passed=True)

    @classmethod
    def component_class(cls) -> type[Component]:
        """The class that is checked.

        Raises:
            CheckFailure: It is not registered.
        """
        if not hasattr(cls, "component"):
            raise CheckFailure(f"{cls.__name__} names no component", 'add a line such as component = "area"')
        if not isinstance(cls.component, str):
            return cls.component
        try:
            return cls.looked_up_in().get(cls.kind, cls.component).cls
        except UserError as error:
            mend = "install its package, and see in `mtdiff plugins` what it brings, or why it failed"
            raise CheckFailure(str(error), mend) from error

    @classmethod
    def made(cls, options: Mapping[str, Any] | None = None) -> Any:
        """The component with its options.

        Raises:
            UserError: An option is unknown, missing or not allowed.
        """
        table = dict(cls.options if options is None else options)
        return read_component(table, "options", cls.component_class(), cls.looked_up_in(), cls.__name__)

    @classmethod
    def looked_up_in(cls) -> Registry:
        """The plugins that components are looked up in: all that are installed."""
        return registry()

    @classmethod
    def make_ready(cls) -> None:
        """Make what all checks need.

        Raises:
            UserError: The component cannot be used with these options.
        """
        cls.made()

    @check("say in words what it is: the class's docstring and the help of each option are what users read")
    def test_it_is_described(self) -> None:
        """The class and each of its options say what they are."""
        cls = self.component_class()
        require(
            issubclass(cls, KINDS[self.kind]),
            f"{cls.__name__} is no {KINDS[self.kind].__name__}",
            "use the kit of its kind",
        )
        require(
            bool((vars(cls).get("__doc__") or "").strip()),
            f"class {cls.__name__} has no docstring",
            "write one; `mtdiff plugins show` prints its first line",
        )
        for name, info in cls.options().items():
            require(bool(info.help.strip()), f"option {name!r} has no help", 'say what it is: option(..., help="...")')


@cache
def registry() -> Registry:
    """All plugins, looked for once."""
    return Registry()
