"""What a scene is made of: flat patches of colour, painted one over the other.

Places are ``(x, y)`` in a world 32 wide and 32 high, x to the right and y down, whatever the picture's size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

WORLD = 32
Point = tuple[float, float]
BLACK = "#000000"


@attrs.frozen(kw_only=True)
class Patch:
    """One polygon of one colour.

    Attributes:
        outline: Its corners.
        day: Its colour by day, ``"#rrggbb"``; "" for what is seen at night alone.
        light: The light that it gives off at night; black if none.
        category: The class it belongs to; "" for what is seen at night alone.
    """

    outline: tuple[Point, ...]
    day: str = ""
    light: str = BLACK
    category: str = ""


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """An upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(x: float, y: float, width: float, height: float | None = None, corners: int = 28) -> list[Point]:
    """An upright ellipse around ``(x, y)`` with two radii, a circle if there is but one."""
    turns = (2 * math.pi * i / corners for i in range(corners))
    return [(x + width * math.cos(t), y + (height or width) * math.sin(t)) for t in turns]


def turned(points: Sequence[Point], centre: Point, angle: float) -> list[Point]:
    """Points turned around a centre by so many radians, clockwise as seen."""
    (x, y), cos, sin = centre, math.cos(angle), math.sin(angle)
    return [(x + (px - x) * cos - (py - y) * sin, y + (px - x) * sin + (py - y) * cos) for px, py in points]


def mixed(first: str, second: str, share: float) -> str:
    """A colour between two, ``share`` of the way to the second."""
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
