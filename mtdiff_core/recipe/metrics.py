"""Metrics by name, with options as a user writes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mtdiff_core.errors import UserError
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.recipe.loading import apply_override
from mtdiff_core.registry.plugin import in_one_line
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.interfaces.metric import Metric
    from mtdiff_core.registry.registry import Registry

log = logging.getLogger(__name__)


def build_metrics(
    asked: Sequence[str], overrides: Sequence[str], registry: Registry, where: str = "--set"
) -> dict[str, Metric]:
    """The metrics that a user asks for.

    Args:
        asked: Their names; if empty, all that are not costly. One of these that cannot be made is left out, with a
            warning, unless an override names it.
        overrides: ``metric.option=value`` each.
        registry: Where they are looked up.
        where: The option that overrides come from, for messages.

    Raises:
        UserError: There is no such metric or option, or a value is not allowed.
    """
    tables: dict[str, Any] = {}
    for override in overrides:
        apply_override(tables, override)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{name}={table!r} is no setting", where, f"expected such as {name}.option=value")
    if asked:
        chosen = {name: _made(name, tables, registry, where) for name in asked}
    else:
        chosen = _all_but_costly(tables, registry, where)
    for name in tables:
        if name not in chosen:
            raise UserError(f"{name!r} is no metric that is computed", where, did_you_mean(name, list(chosen)))
    return chosen


def _made(name: str, tables: Mapping[str, Any], registry: Registry, where: str) -> Metric:
    cls = cast("type[Metric]", registry.get("metric", name).cls)
    return read_component(tables.get(name, {}), name, cls, registry, where)


def _all_but_costly(tables: Mapping[str, Any], registry: Registry, where: str) -> dict[str, Metric]:
    """All metrics that nobody has to ask for, but those that cannot be made unasked."""
    found = {}
    for name in registry.names("metric"):
        rivals = [one for one in registry.components("metric") if one.name == name]
        if all(cast("type[Metric]", one.cls).costly for one in rivals):
            continue
        try:
            found[name] = _made(name, tables, registry, where)
        except Exception as error:  # a plugin's own check of its options may raise anything
            if name in tables:
                raise
            reason = str(error) if isinstance(error, UserError) else in_one_line(error)
            whose = f" of {rivals[0].plugin}" if len(rivals) == 1 else ""
            log.warning("metric %r%s is left out: %s", name, whose, reason)
    return found
