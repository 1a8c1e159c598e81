"""TOML values to the types of options, strictly."""

from __future__ import annotations

import sys
from typing import Any

import cattrs

_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _strict(value: Any, kind: type) -> Any:
    """A value of exactly this TOML type; whole numbers also pass as numbers, nothing else is converted."""
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be {_WORDS[kind]}, not {value!r}")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # so that NaN is refused too
        raise ValueError(f"must be a finite number, not {value!r}")
    return kind(value)


def _strict_list(value: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, not {value!r}")
    return tuple(CONVERTER.structure(entry, kind.__args__[0]) for entry in value)


def _strict_table(value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r}")
    structured = {}
    for key, entry in value.items():
        try:
            structured[key] = CONVERTER.structure(entry, kind.__args__[1])
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    return structured


CONVERTER = cattrs.Converter(detailed_validation=False)
for _kind in _WORDS:
    CONVERTER.register_structure_hook(_kind, _strict)
CONVERTER.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is tuple, _strict_list)
CONVERTER.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is dict, _strict_table)
