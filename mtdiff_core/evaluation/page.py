"""A page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from mtdiff_core.evaluation.markup import Html, element

Section = tuple[str, str, Html]  # its id, its heading and what it holds


def page(title: str, header: Iterable[Html], sections: Sequence[Section]) -> str:
    """A whole HTML document, with a table of contents; in light or dark as the reader has it, and for print.

    Args:
        title: Of the document.
        header: What stands above all.
        sections: One after another.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(files(__package__).joinpath("report.css").read_text("utf-8"))),
    )
    links = [element("li", element("a", heading, href=f"#{key}")) for key, heading, _ in sections]
    body = element(
        "body",
        element("header", *header),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(element("section", element("h2", name), body, id=key) for key, name, body in sections)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
