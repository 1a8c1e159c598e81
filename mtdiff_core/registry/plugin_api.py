"""The version of what plugins may rely on, and what may change in it.

A plugin may rely on the names that ``mtdiff_core`` exports, on the hooks of ``mtdiff_core.registry.hookspecs``, on
``mtdiff_core.codecs``, ``files``, ``intervals``, ``randomness`` and ``testing`` (of a kit: on what one sets in it), and
on nothing else of the core.
``PLUGIN_API`` is the version of that, ``MAJOR.MINOR``:

- MINOR grows when something is added that no plugin has to know of: a name, a hook, an argument of a hook (a hook is
  called with the arguments it declares), a method with a default, an option, a check in a kit. What was built for 1.2
  works with 1.3, and need not work with 1.1.
- MAJOR grows when something is removed or renamed, or means something else, or when a class gets a method that plugins
  must define. Whatever goes has warned of it (``DeprecationWarning``, and a line in the changelog) in one minor version
  before. What was built for 1.x is then left out, with a message, until it says that it was built for 2.x.

A plugin says what it was built for in the module, or the object, that its entry point names::

    MTDIFF_PLUGIN_API = "1.0"

1.0 is what the first release of mtdiff has; what is added before that is part of it.

One that says nothing is loaded with any version: it is checked like the others, when it is loaded.
"""

from __future__ import annotations

import re

PLUGIN_API = "1.0"
DECLARATION = "MTDIFF_PLUGIN_API"


def why_unfit(declared: object) -> str:
    """Why a plugin that was built for this version of the API cannot be used, "" if it can."""
    match = re.fullmatch(r"(\d+)\.(\d+)", declared) if isinstance(declared, str) else None
    if match is None:
        return f"{DECLARATION} must be a version such as {PLUGIN_API!r}, not {declared!r}"
    major, minor = map(int, match.groups())
    our_major, our_minor = map(int, PLUGIN_API.split("."))
    if major == our_major and minor <= our_minor:
        return ""
    older = (major, minor) < (our_major, our_minor)
    remedy = "look for a newer version of the plugin" if older else "it needs a newer mtdiff"
    return f"it was built for plugin API {declared}, and this mtdiff has {PLUGIN_API}; {remedy}"
