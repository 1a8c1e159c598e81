"""What plugins may rely on is what its version says: the policy stands in mtdiff_core/registry/plugin_api.py."""

import importlib
import inspect
import json
import re
from dataclasses import is_dataclass
from pathlib import Path

import attrs

import mtdiff_core
from mtdiff_core import testing
from mtdiff_core.registry import hookspecs

STORED = Path(__file__).with_name("plugin_api.json")
MODULES = ("codecs", "files", "intervals", "randomness")


def parameters(function):
    written = [str(one.replace(annotation=one.empty)) for one in inspect.signature(function).parameters.values()]
    return [re.sub(r"<function (\w+) at \w+>", r"\1", one) for one in written]


def shape_of(value):
    """What code that uses it has to know."""
    if inspect.isclass(value):
        return methods(value)
    return parameters(value) if inspect.isfunction(value) else []


def methods(cls):
    """Public methods by name, with * where plugins have to define them, and what it is made from."""
    abstract = getattr(cls, "__abstractmethods__", ())
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    ours = [owner for owner in cls.__mro__ if owner.__module__.startswith("mtdiff_core")]
    made = {"made from": parameters(cls)} if attrs.has(cls) or is_dataclass(cls) else {}
    return made | {
        f"{name}{'*' * (name in abstract)}": parameters(getattr(value, "__func__", value))
        for name, value in found.items()
        if inspect.isfunction(getattr(value, "__func__", value)) and any(name in vars(owner) for owner in ours)
    }


def settings(kit):
    """What one sets in a kit; its checks look at what is here, and may become more."""
    found = [name for owner in reversed(kit.__mro__) for name in inspect.get_annotations(owner)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def surface():
    """All that plugins may rely on, in words."""
    exported = {name: getattr(mtdiff_core, name) for name in sorted(mtdiff_core._HOMES)}
    public = {
        module: {
            name: shape_of(value)
            for name, value in sorted(vars(importlib.import_module(f"mtdiff_core.{module}")).items())
            if not name.startswith("_") and getattr(value, "__module__", "") == f"mtdiff_core.{module}"
        }
        for module in MODULES
    }
    return {
        "version": mtdiff_core.PLUGIN_API,
        "hooks": {name: parameters(hook) for name, hook in vars(hookspecs).items() if name.startswith("mtdiff_")},
        "exports": {name: shape_of(value) for name, value in exported.items()},
        "modules": public
        | {
            "testing": {
                name: settings(value) if inspect.isclass(value) and issubclass(value, testing.Kit) else shape_of(value)
                for name, value in ((name, getattr(testing, name)) for name in testing.__all__)
            }
        },
    }


def test_the_plugin_api_changes_under_its_version():
    stored, found = json.loads(STORED.read_text()), surface()
    assert found == stored, f"raise PLUGIN_API as its policy says, and write what is found to {STORED.name}"
