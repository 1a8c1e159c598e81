"""mtdiff plugins check: the conformance kit, on an installed package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from mtdiff_core.cli.console import Display, load_registry, output, prepare_process
from mtdiff_core.errors import UserError
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.registry.plugin import Registered
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.testing import CheckResult


@click.command()
@click.argument("package")
@click.option("--component", "only", metavar="NAME", help="Check this component alone.")
def check(package: str, only: str | None) -> None:
    """Check that what PACKAGE brings keeps its promises (mtdiff_core.testing).

    PACKAGE is the name of an installed package, or of a plugin. Every component is checked with its options' defaults,
    but costly metrics only by name. The exit code is 2 where a check fails.
    """
    registry = load_registry(warn=False)
    found = _components(registry, package, only)
    prepare_process()
    from mtdiff_core.testing import CheckResult, check_component

    results: list[tuple[str, list[CheckResult]]] = []  # a package may bring two of one kind and name
    with Display() as display:
        for component in found:
            advance = display.work(f"checking {component.kind} {component.name}", 1)
            costly = only is None and getattr(component.cls, "costly", False)
            skipped = CheckResult(name="all", passed=True, skipped_reason=f"it is costly: --component {component.name}")
            several = [skipped] if costly else check_component(component, registry=registry)
            results.append((f"{component.name} ({component.kind})", several))
            advance(1)
    _print(results)
    failed = sum(not result.passed for _, several in results for result in several)
    if failed:
        raise UserError(f"{failed} check{'s' * (failed > 1)} failed", package)


def _components(registry: Registry, package: str, only: str | None) -> list[Registered]:
    """What the package brings, or the one component of it that is asked for.

    Raises:
        UserError: There is no such package or component, or one of its plugins was left out.
    """
    plugins = [plugin for plugin in registry.plugins if plugin.answers_to(package)]
    if not package or not plugins:
        known = sorted({name for plugin in registry.plugins for name in (plugin.name, plugin.package)})
        raise UserError(f"no package or plugin is called {package!r}", hint=did_you_mean(package, known))
    for plugin in plugins:
        if plugin.reason:
            raise UserError(f"{plugin} is left out: {plugin.reason}", package) from plugin.error
    brought = [one for one in registry.components() if any(one.plugin is plugin for plugin in plugins)]
    found = [one for one in brought if only in (None, one.name)]
    if only is not None and not found:
        names = [one.name for one in brought]
        raise UserError(f"{package} brings no component {only!r}", "--component", did_you_mean(only, names))
    return found


def _advice(result: CheckResult) -> str:
    """What to do. Where a whole component was skipped the reason says it; where a check was, there is nothing to do."""
    reason = result.skipped_reason
    return result.message or (f"nothing: {reason}" if reason and result.name != "all" else reason)


def _print(results: list[tuple[str, list[CheckResult]]]) -> None:
    """A row for each check, or for each component that could not be checked."""
    if not results:
        output.print("it brings no components, so there is nothing to check")
        return
    table = Table("component", "check", "result", "what to do", box=None, pad_edge=False)
    for component, several in results:
        for number, result in enumerate(several):
            state = "[red]failed[/red]" if not result.passed else "skipped" if result.skipped_reason else "ok"
            name = escape(component) if number == 0 else ""
            table.add_row(name, escape(result.name), state, escape(_advice(result)))
    output.print(table)
