"""The kit of each kind of component, and how to run it on one that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.aggregator import Aggregator
from mtdiff_core.interfaces.component import OptionInfo, options_of
from mtdiff_core.testing.aggregator import AggregatorKit
from mtdiff_core.testing.backbone import BackboneKit
from mtdiff_core.testing.dataset import DatasetKit
from mtdiff_core.testing.kit import CheckResult, Kit, UnknownFieldError
from mtdiff_core.testing.metric import MetricKit
from mtdiff_core.testing.modality import ModalityKit

if TYPE_CHECKING:
    from mtdiff_core.registry.plugin import Registered
    from mtdiff_core.registry.registry import Registry

# There is none for schedules: a log-SNR that decreases is all they promise.
KITS: dict[str, type[Kit]] = {kit.kind: kit for kit in (ModalityKit, AggregatorKit, BackboneKit, DatasetKit, MetricKit)}


def check_component(
    registered: Registered, options: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> list[CheckResult]:
    """Run the kit of its kind on a component.

    Args:
        registered: The component.
        options: Its options, as in a recipe's table.
        registry: The plugins that there are; by default all that are installed.

    Returns:
        What became of each check; a single one that was skipped where there is no kit for its kind, or it asks for
        something that is not given.
    """
    kit = KITS.get(registered.kind)
    if kit is None:
        return _skipped(f"there is no kit for a {registered.kind}")
    given = dict(options or {})
    yourself = f"check it in a test of your own, a {kit.__name__} with"
    if missing := _required(registered.cls.options(), given):
        return _skipped(f"it needs {missing}: {yourself} options")
    if issubclass(registered.cls, Aggregator) and (missing := _required(options_of(registered.cls.ModalityOptions))):
        return _skipped(f"of each modality it needs {missing}: {yourself} modality_options")
    own: type[Kit] = type(f"{kit.__name__}Of{registered.cls.__name__}", (kit,), {})
    own.component, own.options = registered.cls, given
    if registry is not None:
        own.looked_up_in = staticmethod(lambda: registry)  # type: ignore[method-assign]
    try:
        own.make_ready()
    except UnknownFieldError:
        return _skipped(f"it reads a field that the kit does not know: {yourself} field = FieldSpec(...)")
    except UserError as error:
        return _skipped(f"with these options it cannot be used ({str(error).splitlines()[0]})")
    except (Exception, SystemExit):
        pass
    return own.run()


def _required(options: Mapping[str, OptionInfo], given: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The options that have no default and are not given, in words."""
    return " and ".join(name for name, info in options.items() if info.required and name not in given)


def _skipped(reason: str) -> list[CheckResult]:
    return [CheckResult(name="all", passed=True, skipped_reason=reason)]
