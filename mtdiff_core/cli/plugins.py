"""mtdiff plugins: what is installed, and what it offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.markup import escape
from rich.table import Table

from mtdiff_core.cli.console import output
from mtdiff_core.cli.plugins_check import check
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import OptionInfo, options_of, summary_of
from mtdiff_core.registry.registry import Registry
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.registry.registry import Registered


@click.group(invoke_without_command=True)
@click.pass_context
def plugins(context: click.Context) -> None:
    """List installed plugins and their components; broken ones with the reason."""
    if context.invoked_subcommand is None:
        _list(Registry())


plugins.add_command(check)


def _list(registry: Registry) -> None:
    table = Table("plugin", "from", "state", "components", box=None, pad_edge=False)
    for plugin in registry.plugins:
        brought = [f"{c.name} ({c.kind})" for c in registry.components() if c.plugin is plugin]
        state = "[red]failed[/red]" if plugin.error else "ok"
        what = plugin.reason or ", ".join(brought) or ", ".join(plugin.hooks)
        table.add_row(escape(plugin.name), escape(plugin.distribution), state, escape(what))
    output.print(table)
    output.print("\nmtdiff plugins show NAME describes a component and its options.")


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Describe component NAME: every option with its type, default and help."""
    registry = Registry()
    owner, _, short = name.rpartition("/")
    found = [c for c in registry.components() if c.name == short and c.plugin.answers_to(owner)]
    if not found:
        failed = [f"{p} could not be loaded ({p.reason})" for p in registry.plugins if p.error]
        names = sorted({component.name for component in registry.components()})
        raise UserError(f"no component is called {name!r}", hint="\n  ".join([did_you_mean(short, names), *failed]))
    for component in found:
        _show(component)


def _show(component: Registered) -> None:
    output.print(f"[bold]{escape(component.name)}[/bold], a {component.kind}, from {escape(str(component.plugin))}")
    output.print(escape(summary_of(component.cls)))
    _print_options(component.cls, "options")
    per_modality = getattr(component.cls, "ModalityOptions", None)
    if per_modality is not None:
        _print_options(per_modality, "options in the table of every modality but the anchor")
    output.print()


def _print_options(cls: type, title: str) -> None:
    options = options_of(cls)
    if not options:
        output.print(f"  no {title}")
        return
    table = Table("option", "type", "default", "allowed", "help", box=None, title=title, title_justify="left")
    for name, info in options.items():
        table.add_row(*map(escape, (name, _type_name(info.type), _default(info), info.allowed(), info.help)))
    output.print(table)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def _default(info: OptionInfo) -> str:
    return "required" if info.default is attrs.NOTHING else repr(info.default)
