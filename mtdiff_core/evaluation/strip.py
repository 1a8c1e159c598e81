"""A figure's value, its interval and its baselines on one axis, small enough for a cell of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from mtdiff_core.evaluation.markup import Html, element, finite, interval, number

# In pixels.
WIDTH, HEIGHT, MARGIN = 190, 34, 9
MIDDLE = 10
LETTERS_AT = 30
LETTER = 9  # smallest distance of two letters


def letters(baselines: Mapping[str, object]) -> dict[str, str]:
    """By the name of each baseline, the letter that marks it."""
    return {name: ascii_lowercase[index % 26] for index, name in enumerate(baselines)}


def strip(figure: Mapping[str, Any]) -> Html | str:
    """The drawing; nothing if no number of the figure is finite.

    Args:
        figure: As ``figure_to_json`` gives it.
    """
    ends = [end for end in figure["interval"] or () if finite(end)]
    baselines = {name: value for name, value in figure["baselines"].items() if finite(value)}
    values = [figure["value"]] if finite(figure["value"]) else []
    everything = [*values, *ends, *baselines.values()]
    if not everything:
        return ""
    place = _Axis(everything)
    mark_of = letters(figure["baselines"])
    return element(
        "svg",
        element("line", x1=MARGIN, x2=WIDTH - MARGIN, y1=MIDDLE, y2=MIDDLE, class_="axis"),
        *(_baseline(place(value)) for value in baselines.values()),
        *_letters({mark_of[name]: place(value) for name, value in baselines.items()}),
        *([_bar(place(ends[0]), place(ends[1]))] if len(ends) == 2 else []),
        *(element("circle", cx=place(value), cy=MIDDLE, r=3, class_="value") for value in values),
        class_="strip",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
        aria_label=_words(figure),
    )


class _Axis:
    """Where a number stands, in pixels to a tenth, so that equal pages have equal bytes."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.low, self.high = min(numbers), max(numbers)

    def __call__(self, value: float) -> float:
        # Halves, since the distance of two huge numbers may be no number
        span = self.high / 2 - self.low / 2
        share = (value / 2 - self.low / 2) / span if span > 0 else 0.5
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)


def _bar(first: float, last: float) -> Html:
    """The interval, at least a pixel wide."""
    width = max(1.0, round(last - first, 1))
    return element("rect", x=first, y=MIDDLE - 6, width=width, height=12, rx=2, class_="interval")


def _baseline(x: float) -> Html:
    return element("line", x1=x, x2=x, y1=MIDDLE - 8, y2=MIDDLE + 8, class_="baseline")


def _letters(places: Mapping[str, float]) -> list[Html]:
    """Letters below their baselines, moved to the right where they would touch."""
    found: list[Html] = []
    free = 0.0
    room = len(places) * LETTER
    for letter, x in sorted(places.items(), key=lambda item: item[1]):
        room -= LETTER
        at = min(max(x, free), WIDTH - MARGIN / 2 - room)
        found.append(element("text", letter, x=round(at, 1), y=LETTERS_AT))
        free = at + LETTER
    return found


def _words(figure: Mapping[str, Any]) -> str:
    baselines = [f"{name} {number(value)}" for name, value in figure["baselines"].items()]
    return ", ".join([f"value {number(figure['value'])}", f"interval {interval(figure['interval'])}", *baselines])
