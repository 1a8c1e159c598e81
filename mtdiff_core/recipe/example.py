"""A component's table in a recipe as it might be written: every option with its default."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

from mtdiff_core.interfaces.component import OptionInfo, options_of

if TYPE_CHECKING:
    from mtdiff_core.registry.plugin import Registered

# The section of a recipe in which a component of each kind stands, and the key that names it.
PLACES = {
    "aggregator": ("space", "aggregator"),
    "backbone": ("backbone", "type"),
    "schedule": ("diffusion", "schedule"),
    "dataset": ("data", "dataset"),
}
LISTS = re.compile(r"\[\n(.*?)\n\]", re.DOTALL)  # tomli_w gives every entry a line of its own


def example_of(component: Registered) -> tuple[str, str]:
    """What to write to use a component, and where.

    Returns:
        A title, and lines of TOML, or for a metric, which no recipe names, of a shell.
    """
    name, options = component.name, _values(component.cls)
    if component.kind == "metric":
        settings = "".join(f" --set {name}.{key}={_toml(value)}" for key, value in options.items())
        return "with mtdiff evaluate, every option with its default:", f"mtdiff evaluate RUN --metric {name}{settings}"
    if component.kind == "modality":
        tables: dict[str, Any] = {"modalities": {name: {"type": name, "field": name, **options}}}
    else:
        section, key = PLACES[component.kind]
        tables = {section: {key: name, **options}}
    per_modality = getattr(component.cls, "ModalityOptions", None)
    if per_modality is not None:
        tables[section] = {"anchor": "mine", **tables[section]}
        tables["modalities"] = {"other": _values(per_modality)}
    text = LISTS.sub(_one_line, tomli_w.dumps(tables)).strip()
    if component.kind == "modality":
        text = re.sub(r"^field = .*$", r"\g<0>  # the data set's field that it reads", text, flags=re.MULTILINE)
    return "in a recipe, every option with its default:", text


def _one_line(written: re.Match[str]) -> str:
    return f"[{' '.join(written[1].split()).rstrip(',')}]"


def _values(cls: type) -> dict[str, Any]:
    return {name: _value(info) for name, info in options_of(cls).items()}


def _value(info: OptionInfo) -> Any:
    """The default of an option, or something in place of one that has none."""
    if info.default is not attrs.NOTHING:
        return info.default
    if info.choices:
        return info.choices[0]
    if info.minimum is not None or info.maximum is not None:
        return info.type(info.minimum if info.minimum is not None else info.maximum)
    made: dict[Any, Any] = {int: 1, float: 1.0, bool: False, str: info.name}
    return made.get(info.type, {} if getattr(info.type, "__origin__", None) is dict else [])


def _toml(value: Any) -> str:
    """A value as it follows ``--set key=``; what a shell would take apart is quoted."""
    text = LISTS.sub(_one_line, tomli_w.dumps({"value": value})).partition("= ")[2].strip()
    return f"'{text}'" if isinstance(value, str | list | tuple | dict) else text
