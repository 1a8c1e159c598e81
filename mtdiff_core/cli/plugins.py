"""mtdiff plugins: what is installed, what it offers, and a package to begin one's own from."""

from __future__ import annotations

import shlex
import textwrap
import traceback
from pathlib import Path
from typing import Any

import attrs
import click
from rich.markup import escape
from rich.table import Table

from mtdiff_core.cli.console import load_registry, output
from mtdiff_core.cli.plugins_check import check
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import OptionInfo, options_of, summary_of
from mtdiff_core.recipe.example import example_of
from mtdiff_core.registry.checks import HOOKS
from mtdiff_core.registry.plugin import Plugin, Registered
from mtdiff_core.registry.plugin_api import PLUGIN_API
from mtdiff_core.registry.registry import Registry
from mtdiff_core.scaffold import KINDS, write_plugin
from mtdiff_core.suggest import did_you_mean

STYLES = {"ok": "", "failed": "red", "disabled": "dim", "clash": "yellow"}


@click.group(invoke_without_command=True)
@click.pass_context
def plugins(context: click.Context) -> None:
    """List installed plugins and what they bring; broken ones with the reason."""
    if context.invoked_subcommand is None:
        _list(load_registry(warn=False))


plugins.add_command(check)


def _list(registry: Registry) -> None:
    table = Table("plugin", "from", "state", "loaded in", "hooks and components", box=None, pad_edge=False)
    for plugin in registry.plugins:
        took = "" if plugin.disabled else f"{plugin.seconds * 1000:.0f} ms"
        lines = [*_notes(plugin), *_brought(plugin, registry)]
        cells = (plugin.name, plugin.distribution, plugin.state, took, "\n".join(lines))
        table.add_row(*map(escape, cells), style=STYLES[plugin.state])
    output.print(table)
    output.print(f"\nThis is plugin API {PLUGIN_API}. mtdiff plugins show NAME describes a plugin, or a component.")


def _notes(plugin: Plugin) -> list[str]:
    """What is to be known of a plugin besides what it brings."""
    slow = "imports torch while it is loaded, which makes every command slow; import it inside functions"
    return [note for note in (plugin.reason, *plugin.clashes, slow if plugin.imports_torch else "") if note]


def _brought(plugin: Plugin, registry: Registry) -> list[str]:
    """A plugin's hooks, each with the components that it gives."""
    names: dict[str, list[str]] = {hook: [] for hook in plugin.hooks}
    if plugin.error is None:
        for component in registry.components():
            if component.plugin is plugin:
                names[HOOKS[component.kind]].append(component.name)
    return [f"{hook}: {', '.join(given)}" if given else hook for hook, given in names.items()]


@plugins.command()
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), default="modality", show_default=True, help="What kind of component it brings."
)
@click.option("--out", type=click.Path(path_type=Path), help="Its folder.  [default: mtdiff-NAME, here]")
def new(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin package called NAME that works as it stands, with its test and a recipe, to begin from."""
    folder = out or Path(f"mtdiff-{name}")
    taken = [c for c in load_registry().components(kind) if c.name == name]
    if taken:
        raise UserError(f"{taken[0].plugin} has a {kind} called {name!r} already", hint="choose another name")
    files = write_plugin(name, kind, folder)
    shown = shlex.quote(str(folder))
    output.print(f"wrote {shown}: {', '.join(map(str, files))}", markup=False)
    output.print(f"try next:\n  cd {shown} && pip install -e . pytest", markup=False)
    output.print(f"  pytest\n  mtdiff plugins show {name}\n  mtdiff run recipe.toml", markup=False)


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Describe NAME, a component (options and an example) or a plugin (its state, and why it is broken)."""
    registry = load_registry(warn=False)
    owner, _, short = name.rpartition("/")
    found = [c for c in registry.components() if c.name == short and c.plugin.answers_to(owner)]
    meant = [plugin for plugin in registry.plugins if plugin.answers_to(name)]
    if not found and not meant:
        known = {c.name for c in registry.components()} | {plugin.name for plugin in registry.plugins}
        hint = did_you_mean(short, sorted(known))
        raise UserError(f"no component or plugin is called {name!r}", hint="\n  ".join([hint, *registry.left_out()]))
    for component in found:
        _show(component)
    for plugin in [] if found else meant:
        _show_plugin(plugin, registry)


def _show_plugin(plugin: Plugin, registry: Registry) -> None:
    output.print(f"[bold]{escape(plugin.name)}[/bold], a plugin from {escape(plugin.distribution)}: {plugin.state}")
    built_for = f"built for plugin API {plugin.built_for}" if plugin.built_for else "does not say what it was built for"
    output.print(f"  module {plugin.module}; {built_for}", markup=False)
    for line in [*_notes(plugin), *_brought(plugin, registry)]:
        output.print(f"  {line}", markup=False)
    if plugin.error is not None:
        output.print("".join(traceback.format_exception(plugin.error)), markup=False)


def _show(component: Registered) -> None:
    article = "an" if component.kind[0] in "aeiou" else "a"
    who = escape(str(component.plugin))
    output.print(f"[bold]{escape(component.name)}[/bold], {article} {component.kind}, from {who}")
    output.print(escape(summary_of(component.cls)))
    _print_options(component.cls, "options")
    per_modality = getattr(component.cls, "ModalityOptions", None)
    if per_modality is not None:
        _print_options(per_modality, "options in the table of every modality but the anchor")
    title, example = example_of(component)
    output.print(f"\n{title}\n", markup=False)
    output.print(textwrap.indent(example, "    ") + "\n", markup=False)


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
