"""Metrics by name, with options as a user writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from mtdiff_core.errors import UserError
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.recipe.loading import apply_override
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.interfaces.metric import Metric
    from mtdiff_core.registry.registry import Registry


def build_metrics(
    asked: Sequence[str], overrides: Sequence[str], registry: Registry, where: str = "--set"
) -> dict[str, Metric]:
    """The metrics that a user asks for.

    Args:
        asked: Their names; if empty, all that are not costly.
        overrides: ``metric.option=value`` each.
        registry: Where they are looked up.
        where: The option that overrides come from, for messages.

    Raises:
        UserError: There is no such metric or option, or a value is not allowed.
    """
    classes = {
        name: cast("type[Metric]", registry.get("metric", name).cls) for name in asked or registry.names("metric")
    }
    chosen = {name: cls for name, cls in classes.items() if asked or not cls.costly}
    tables: dict[str, Any] = {}
    for override in overrides:
        apply_override(tables, override)
    for name, table in tables.items():
        if name not in chosen:
            raise UserError(f"{name!r} is no metric that is computed", where, did_you_mean(name, list(chosen)))
        if not isinstance(table, dict):
            raise UserError(f"{name}={table!r} is no setting", where, f"expected such as {name}.option=value")
    return {name: read_component(tables.get(name, {}), name, cls, registry, where) for name, cls in chosen.items()}
