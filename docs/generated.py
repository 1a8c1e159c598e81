"""What the site takes from the code while it is built, so that it cannot be out of date.

A line ``<!-- generated: WHAT ARGUMENT -->`` of a page is replaced with what the function of that name in ``MAKERS``
makes of the argument. Formulas, ``$...$``, become MathML, which browsers draw by themselves.
"""

from __future__ import annotations

import html
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import click
from latex2mathml.converter import convert

from mtdiff_core.cli.main import cli
from mtdiff_core.interfaces.component import OptionInfo, options_of, summary_of
from mtdiff_core.packaged import find_recipe
from mtdiff_core.recipe import sections
from mtdiff_core.recipe.example import example_of
from mtdiff_core.registry import hookspecs
from mtdiff_core.registry.registry import Registry

MARK = re.compile(r"^<!-- generated: (\S+) ?(.*?) -->$", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ROLE = re.compile(r":(?:meth|func|class):(?=<code>)")  # Sphinx's marks in docstrings
WIDTH = 80

# Sections of a recipe: the class that holds the keys, and the kinds of components whose own options stand beside them.
SECTIONS = {
    "": (sections.HeadOptions, ()),
    "[data]": (sections.DataOptions, ("data set",)),
    "[space]": (sections.SpaceOptions, ("aggregator",)),
    "[modalities.NAME]": (sections.ModalityOptions, ("modality", "aggregator")),
    "[backbone]": (sections.BackboneOptions, ("backbone",)),
    "[diffusion]": (sections.DiffusionOptions, ("schedule",)),
    "[train]": (sections.TrainOptions, ()),
    "[sample]": (sections.SampleOptions, ()),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is generated."""
    return MARK.sub(lambda mark: MAKERS[mark[1]](mark[2]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""
    return FORMULA.sub(_formula, ROLE.sub("", content))


def _formula(found: re.Match[str]) -> str:
    return convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")


def help_of(path: str) -> str:
    """What ``mtdiff COMMAND --help`` says, and the same of each command below it."""
    context = click.Context(cli, info_name="mtdiff", **cli.context_settings)
    command: click.Command = cli
    for name in path.split():
        command = command.commands[name]
        context = click.Context(command, info_name=name, parent=context)
    below = sorted(getattr(command, "commands", {}))
    context.terminal_width = WIDTH
    return "\n\n".join(
        [
            f"```text\n{command.get_help(context)}\n```",
            *(f"## {path} {name}\n\n{help_of(f'{path} {name}')}" for name in below),
        ]
    )


def keys(_: str) -> str:
    """The keys of every section of a recipe."""
    parts = []
    for title, (cls, kinds) in SECTIONS.items():
        parts.append(f"## `{title}`" if title else "## Above the first section")
        links = " and of ".join(f"the [{kind}](components.md#{_plural(kind)})" for kind in kinds)
        parts += [f"Beside these stand the options of {links}.", _table(options_of(cls).values())][not kinds :]
    return "\n\n".join(parts)


def components(kind: str) -> str:
    """Every component of a kind that comes with mtdiff."""
    found = [one for one in Registry().components(kind) if one.plugin.package == "mtdiff"]
    parts = []
    for one in sorted(found, key=lambda one: one.name):
        title, example = example_of(one)
        language = "bash" if kind == "metric" else "toml"
        options = options_of(one.cls)
        parts += [
            f"### `{one.name}`",
            summary_of(one.cls),
            _table(options.values()) if options else "It has no options.",
        ]
        of_modalities = getattr(one.cls, "ModalityOptions", None)
        if of_modalities is not None:
            parts += ["In the table of every modality but the anchor:", _table(options_of(of_modalities).values())]
        parts.append(
            f'??? example "{title[0].upper()}{title[1:].rstrip(":")}"\n\n' + _indented(_fenced(example, language))
        )
    return "\n\n".join(parts)


def _plural(kind: str) -> str:
    """The heading's anchor on the page of components."""
    return "modalities" if kind == "modality" else f"{kind.replace(' ', '-')}s"


def _table(options: Iterable[OptionInfo]) -> str:
    rows = [
        (f"`{info.name}`", _type(info), _default(info), info.allowed(), info.help.replace("|", r"\|"))
        for info in options
    ]
    lines = [("key", "type", "default", "allowed", "what it is"), ("---",) * 5, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _type(info: OptionInfo) -> str:
    kind = info.type
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def _default(info: OptionInfo) -> str:
    return "required" if info.default is attrs.NOTHING else f"`{info.default!r}`"


def hooks(_: str) -> str:
    """Every hook, with its arguments."""
    rows = [
        f"| `{name}` | {', '.join(f'`{argument}`' for argument in inspect.signature(hook).parameters) or 'none'} "
        f"| {_returned(hook)} | {inspect.getdoc(hook)} |"
        for name, hook in vars(hookspecs).items()
        if name.startswith("mtdiff_")
    ]
    return "\n".join(["| hook | arguments | returns | what for |", "|---|---|---|---|", *rows])


def _returned(hook: Callable[..., Any]) -> str:
    kind = inspect.signature(hook).return_annotation
    return "nothing" if kind == "None" else f"`{kind}`"


def policy(module: str) -> str:
    """The docstring of a module, without its first line."""
    text = inspect.getdoc(__import__(module, fromlist=["_"])) or ""
    return re.sub(
        r"::\n\n((?: {4}.*\n?)+)",
        lambda block: f":\n\n```python\n{inspect.cleandoc(block[1])}\n```\n",
        text.partition("\n\n")[2],
    )


def recipe(name: str) -> str:
    """What a shipped recipe says of itself, and the whole of it."""
    text = find_recipe(name).read_text()
    head = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines() if line.startswith("#")]
    described = tomllib.loads(text)["description"]
    rest = text[text.index("\nname = ") + 1 :]
    shown = f'??? example "recipes/{name}.toml"\n\n{_indented(_fenced(rest, "toml"))}'
    return f"{described}\n\n{_fenced(chr(10).join(head), 'text')}\n\n{shown}"


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


MAKERS: dict[str, Callable[[str], str]] = {
    "help": help_of,
    "keys": keys,
    "components": components,
    "hooks": hooks,
    "docstring": policy,
    "recipe": recipe,
}
