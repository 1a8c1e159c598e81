"""What components of plugins give while they are used, checked where it enters the core.

A wrong thing is then refused in its plugin's name, and not found by whatever of the core stumbles over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtdiff_core.errors import UserError
from mtdiff_core.registry.checks import check_methods
from mtdiff_core.registry.plugin import PluginError, owner_of


def maker_of(component: object) -> str:
    """Whose code a component is, an instance or a class: its plugin, or the class where no installed plugin has it."""
    cls = component if isinstance(component, type) else type(component)
    plugin = owner_of(cls.__module__)
    return str(plugin) if plugin else f"class {cls.__module__}.{cls.__name__}"


@contextmanager
def in_name_of(component: object, where: str) -> Iterator[None]:
    """Inside the block a component is used: what is wrong with what it gives is refused in its plugin's name.

    Args:
        component: The component.
        where: What it is in the recipe, such as ``"modalities.sound"``.

    Raises:
        UserError: In place of ``PluginError``, which says what is wrong.
    """
    try:
        yield
    except PluginError as error:
        raise UserError(f"{maker_of(component)}: {error}", where) from error
    except UserError:
        raise
    except Exception as error:
        error.add_note(f"in {where}, {maker_of(component)}")  # wherever in the core or in a library it was raised
        raise


def instance_of(made: Any, base: type, what: str) -> Any:
    """What a component made, if it is of the class that it has to be of, with methods that can be called.

    Args:
        made: The object.
        base: The class.
        what: What it is for, in words, such as ``"its encoder"``.

    Raises:
        PluginError: It is something else, lacks a method, or has an old signature.
    """
    if not isinstance(made, base):
        raise PluginError(f"{what} must be of a subclass of {base.__name__}, and is of {type(made).__name__}")
    for ours in (cls for cls in base.__mro__ if cls.__module__.startswith("mtdiff_core.")):
        check_methods(f"{what}, of class {type(made).__name__},", ours, type(made))
    return made
