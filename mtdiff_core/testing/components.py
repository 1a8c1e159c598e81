"""The kit of each kind of component, and how to run it on one that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mtdiff_core.errors import UserError
from mtdiff_core.testing.aggregator import AggregatorKit
from mtdiff_core.testing.backbone import BackboneKit
from mtdiff_core.testing.dataset import DatasetKit
from mtdiff_core.testing.kit import CheckFailure, CheckResult, Kit
from mtdiff_core.testing.metric import MetricKit
from mtdiff_core.testing.modality import ModalityKit

if TYPE_CHECKING:
    from mtdiff_core.registry.plugin import Registered

# There is none for schedules: a log-SNR that decreases is all they promise.
KITS: dict[str, type[Kit]] = {kit.kind: kit for kit in (ModalityKit, AggregatorKit, BackboneKit, DatasetKit, MetricKit)}


def check_component(registered: Registered, options: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run the kit of its kind on a component.

    Args:
        registered: The component.
        options: Its options, as in a recipe's table.

    Returns:
        What became of each check; a single one that was skipped where there is no kit for its kind, or its options ask
        for something that is not given.
    """
    kit = KITS.get(registered.kind)
    if kit is None:
        return [CheckResult(name="all", passed=True, skipped_reason=f"there is no kit for a {registered.kind}")]
    given = dict(options or {})
    missing = [name for name, info in registered.cls.options().items() if info.required and name not in given]
    if missing:
        reason = f"it needs {' and '.join(missing)}: check it in a test of your own, a {kit.__name__} with options"
        return [CheckResult(name="all", passed=True, skipped_reason=reason)]
    own: type[Kit] = type(f"{kit.__name__}Of{registered.cls.__name__}", (kit,), {})
    own.component, own.options = registered.cls, given
    try:
        with suppress(CheckFailure, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            own.make_ready()  # what is no UserError is found again, and explained, by each check
    except UserError as error:
        reason = str(error).split("\n")[0]
        return [CheckResult(name="all", passed=True, skipped_reason=f"with these options it cannot be used ({reason})")]
    return own.run()
