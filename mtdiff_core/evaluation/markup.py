"""HTML and SVG as text, put together so that nothing gets into it unescaped, and numbers as a person reads them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

VOID = {"img", "meta"}  # have no content and no end
NOTHING = "–"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: object, **attributes: object) -> Html:
    """An element; content that is no :class:`Html` is text and escaped, as are attributes.

    Args:
        name: Of the element.
        content: What is in it, one after another.
        attributes: ``_`` stands for a hyphen, or for nothing at the end (``class_``); None leaves an attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{together(content)}</{name}>")


def together(content: Iterable[object]) -> Html:
    """Pieces of markup and of text, one after another."""
    return Html("".join(one if isinstance(one, Html) else html.escape(str(one)) for one in content))


def table(caption: str, heads: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls where it is too wide; the first cell of a row is its heading."""
    head = element("tr", *(element("th", one, scope="col") for one in heads))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", one) for one in rest)) for first, *rest in rows
    ]
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def number(value: float | None, digits: int = 4) -> str:
    """A number to so many digits; a dash for what is none."""
    if value is None or math.isnan(value):
        return NOTHING
    text = "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}g}"
    return text.replace("-", "−")  # the sign is as wide as a digit


def interval(ends: Sequence[float | None] | None) -> str:
    """A 95% interval."""
    if ends is None or ends[0] is ends[1] is None:
        return NOTHING
    return f"{number(ends[0])} to {number(ends[1])}"


def finite(value: float | None) -> bool:
    """Whether it can be drawn."""
    return value is not None and math.isfinite(value)
