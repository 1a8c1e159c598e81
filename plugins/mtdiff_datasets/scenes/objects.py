"""The eight things that a scene may show.

Each function draws one around the point ``(0, 0)`` on which it stands (y down, so that it reaches to negative y), about
15 high, and chooses its colours and details from ``random``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from mtdiff_datasets.scenes.patch import BLACK, Patch, Point, ellipse, mixed, rectangle, turned

GLASS, WARM, FAINT = "#cfe6f2", "#ffc766", "#5a4a20"
WALLS = ("#f2e3c6", "#e8c9a8", "#f4f0e6", "#d9a78b", "#e9d27f", "#b8ccd6")
BRIGHT = ("#d8433b", "#e8833a", "#2f7fc1", "#3f9c78", "#8b5fb0", "#e3b23c", "#d65a86")
ROOFS = ("#a8412f", "#7a4a3a", "#4d6480", "#8d5a2b", "#5b5468")
LEAVES = ("#3f8a3c", "#5da045", "#2f7350", "#d98a2b", "#c4552d", "#e79ab0")
WOOD = "#6b4a32"

Draw = Callable[[Random], list[Patch]]


def _part(outline: Sequence[Point], day: str, light: str = BLACK) -> Patch:
    return Patch(outline=tuple(outline), day=day, light=light)


def _window(x: float, y: float, width: float, height: float) -> Patch:
    """A window around ``(x, y)``: glass by day, lamplight at night."""
    outline = rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return _part(outline, mixed(GLASS, "#4a6a86", 0.55), WARM)


def house(random: Random) -> list[Patch]:
    """A gabled house with two windows, a door and a chimney."""
    wall, roof, door = random.choice(WALLS), random.choice(ROOFS), random.choice(BRIGHT)
    width, height = random.uniform(6.4, 7.6), random.uniform(7, 8.4)
    return [
        _part(rectangle(width * 0.35, -height - 6, width * 0.35 + 2, -height), mixed(roof, "#000000", 0.35)),
        _part(rectangle(-width, -height, width, 0), wall),
        _part(rectangle(width * 0.45, -height, width, 0), mixed(wall, "#3a2f4a", 0.18)),
        _part([(-width - 1.3, -height), (0, -height - 6.5), (width + 1.3, -height)], roof),
        _part([(0, -height - 6.5), (width + 1.3, -height), (width * 0.45, -height)], mixed(roof, "#000000", 0.15)),
        _window(-width * 0.58, -height * 0.6, 2.6, 2.6),
        _window(width * 0.58, -height * 0.6, 2.6, 2.6),
        _part(rectangle(-1.3, -4.3, 1.3, 0), door),
    ]


def tree(random: Random) -> list[Patch]:
    """A broad-leaved tree with a crown of three balls, or a fir of three tiers."""
    leaf = random.choice(LEAVES)
    dark, pale = mixed(leaf, "#10203a", 0.3), mixed(leaf, "#fff2b0", 0.28)
    trunk = [(-1.1, -7), (1.1, -7), (1.5, 0), (-1.5, 0)]
    if random.random() < 0.35:
        fir = mixed(random.choice(LEAVES[:3]), "#1d4a4a", 0.4)
        tiers = [(6.2, -2.5, -8.5), (5, -6.5, -12), (3.6, -10, -16)]
        return [_part(rectangle(-1, -3, 1, 0), WOOD)] + [
            _part(outline, colour)
            for i, (width, low, high) in enumerate(tiers)
            for outline, colour in (
                ([(-width, low), (0, high), (width, low)], mixed(fir, "#d8f0c0", 0.07 * i)),
                ([(0, low), (0, high), (width, low)], mixed(fir, "#10203a", 0.25)),
            )
        ]
    return [
        _part(trunk, WOOD),
        _part(ellipse(2.6, -8.2, 4.3, 3.8), dark),
        _part(ellipse(-2.8, -8.4, 4.2, 3.8), leaf),
        _part(ellipse(0.2, -11.8, 4.6, 4.2), leaf),
        _part(ellipse(-1.3, -12.8, 2.6, 2.2), pale),
        _part(ellipse(-3.9, -9.2, 1.7, 1.4), pale),
    ]


def car(random: Random) -> list[Patch]:
    """A car from the side; it drives to the left."""
    paint = random.choice(BRIGHT)
    cabin = [(-4.8, -5.2), (-2.6, -8.8), (3.6, -8.8), (5.8, -5.2)]
    body = [(-9, -1.6), (-9, -4.2), (-8, -5.3), (8, -5.5), (9, -4.4), (9, -1.6)]
    pane = mixed(GLASS, "#5f86a0", 0.35)
    beam = [(-9, -3.9), (-19, -5.2), (-19, 0.3), (-9, -3.0)]
    wheels = [
        _part(ellipse(x, -1.7, radius), colour)
        for x in (-5.2, 5.2)
        for radius, colour in ((2.2, "#26262e"), (1.05, "#c9ced6"))
    ]
    return [
        Patch(outline=tuple(beam), light="#4a4228"),
        _part(cabin, paint),
        _part([(-3.7, -5.4), (-2.1, -7.9), (0.1, -7.9), (0.1, -5.4)], pane, FAINT),
        _part([(1.0, -5.4), (1.0, -7.9), (3.2, -7.9), (4.7, -5.4)], pane, FAINT),
        _part(body, paint),
        _part(rectangle(-9, -2.9, 9, -1.6), mixed(paint, "#101020", 0.35)),
        _part(ellipse(-8.4, -3.7, 0.95), "#fff4c8", "#fff0b8"),
        _part(rectangle(8.1, -4.4, 9.1, -3.1), "#b3202a", "#ff3a30"),
        *wheels,
    ]


def boat(random: Random) -> list[Patch]:
    """A sailing boat with two sails."""
    hull, sail = random.choice(BRIGHT), random.choice(("#fbf7ec", "#fbf7ec", *BRIGHT[:3]))
    return [
        _part(rectangle(-0.4, -16.5, 0.4, -3), WOOD),
        _part([(1, -15.5), (7.6, -4.4), (1, -4.4)], sail),
        _part([(-0.9, -14), (-6.2, -4.4), (-0.9, -4.4)], mixed(sail, "#4a5a80", 0.22)),
        _part([(0.2, -16.8), (3.2, -16), (0.2, -15.2)], random.choice(BRIGHT)),
        _part([(-8.6, -3.6), (8.6, -3.6), (6, 0.4), (-6, 0.4)], hull),
        _part([(-8.6, -3.6), (8.6, -3.6), (8, -2.6), (-8, -2.6)], "#fbf7ec"),
        *[_part(ellipse(x, -1.4, 0.75), GLASS, WARM) for x in (-3.2, 0, 3.2)],
        _part(ellipse(0, -16.6, 0.6), "#fff4c8", "#ffe9a8"),
    ]


def balloon(random: Random) -> list[Patch]:
    """A striped hot-air balloon, lit from inside at night."""
    first, second = random.sample(BRIGHT, 2)
    second = random.choice((second, "#fbf3df"))
    patches = [_part(rectangle(x - 0.2, -5, x + 0.2, -1.5), WOOD) for x in (-1.3, 1.3)]
    edges = [-1.0, -0.62, -0.22, 0.22, 0.62, 1.0]
    for i, (left, right) in enumerate(pairwise(edges)):
        colour = (first, second)[i % 2]
        shade = mixed(colour, "#1a1a40", max(0.0, 0.09 * (i - 2)))
        patches.append(_part(_gore(left, right), shade, mixed("#000000", mixed(colour, "#ffb040", 0.35), 0.62)))
    return [*patches, _part(rectangle(-1.9, -2.2, 1.9, 0.6), "#8a5a34"), _part(ellipse(0, -3.9, 0.55), WARM, "#ffe0a0")]


def _gore(left: float, right: float) -> list[Point]:
    """A stripe of a balloon, between two meridians given as shares of its half width (-1 to 1)."""
    heights = [i / 12 for i in range(13)]  # 0 at the crown, 1 at the mouth
    profile = [(-16.8 + 12.3 * h, 6.6 * math.sqrt(max(0.03, 1 - (2 * h / 1.25 - 0.92) ** 2))) for h in heights]
    profile = [(y, max(width, 1.5)) for y, width in profile]
    return [(left * width, y) for y, width in profile] + [(right * width, y) for y, width in reversed(profile)]


def windmill(random: Random) -> list[Patch]:
    """A tower mill with four sails."""
    wall, roof = random.choice(WALLS), random.choice(ROOFS)
    hub, angle = (0.0, -11.0), random.uniform(0.2, math.pi / 2 - 0.2)
    sails = []
    for i in range(4):
        turn = angle + i * math.pi / 2
        sails.append(_part(turned([(0.2, -18.4), (2.3, -18.4), (2.3, -13), (0.2, -13)], hub, turn), "#fbf4e2"))
        sails.append(_part(turned(rectangle(-0.4, -18.6, 0.4, -11), hub, turn), WOOD))
    return [
        _part([(-3.0, -10.5), (3.0, -10.5), (4.6, 0), (-4.6, 0)], wall),
        _part([(0.9, -10.5), (3.0, -10.5), (4.6, 0), (1.4, 0)], mixed(wall, "#3a2f4a", 0.22)),
        _part([(-3.5, -10.3), (-2.2, -13), (0, -14), (2.2, -13), (3.5, -10.3)], roof),
        _window(0, -6.4, 2.1, 2.3),
        _part(rectangle(-1.2, -3.4, 1.2, 0), mixed(roof, "#000000", 0.25)),
        *sails,
        _part(ellipse(*hub, 0.9), "#4a3626"),
    ]


def lighthouse(random: Random) -> list[Patch]:
    """A striped lighthouse; at night two beams leave its lamp."""
    stripe, lamp, spread = random.choice(BRIGHT[:4]), -15.0, random.uniform(1.6, 2.6)
    beams = [
        Patch(
            outline=((0, lamp), (side * 34, lamp - tilt - spread), (side * 34, lamp - tilt + spread)), light="#453f26"
        )
        for side, tilt in ((-1, random.uniform(-1, 3)), (1, random.uniform(-1, 3)))
    ]
    bands = []
    for i, colour in enumerate(("#fbf7ee", stripe, "#fbf7ee", stripe)):
        low, high = -3.3 * i, -3.3 * (i + 1)
        wide, narrow = 3.7 + 0.1 * low, 3.7 + 0.1 * high
        bands.append(_part([(-wide, low), (wide, low), (narrow, high), (-narrow, high)], colour))
        shaded = [(wide * 0.4, low), (wide, low), (narrow, high), (narrow * 0.4, high)]
        bands.append(_part(shaded, mixed(colour, "#2a2038", 0.22)))
    return [
        *beams,
        *bands,
        _part(rectangle(-3.4, -13.9, 3.4, -13.0), "#3b3f4d"),
        _part(rectangle(-1.7, -16.4, 1.7, -13.9), "#f7e7a4", "#fff2c0"),
        _part([(-2.4, -16.2), (0, -18.6), (2.4, -16.2)], mixed(stripe, "#000000", 0.25)),
        _part(rectangle(-0.9, -2.6, 0.9, 0), "#3b3f4d"),
        _window(0, -8.3, 1.4, 1.7),
    ]


def castle(random: Random) -> list[Patch]:
    """A castle with two towers, battlements, a gate and flags."""
    stone, flag = random.choice(("#b9b3aa", "#a9b0ba", "#c9b695", "#b39c92")), random.choice(BRIGHT)
    dark = mixed(stone, "#2f2a44", 0.3)
    patches = [_part(rectangle(-5, -8, 5, 0), dark)]
    patches += [_part(rectangle(x - 0.9, -9.5, x + 0.9, -7.9), dark) for x in (-2.8, 0, 2.8)]
    for x in (-6.2, 6.2):
        patches.append(_part(rectangle(x - 2.5, -11.5, x + 2.5, 0), stone))
        patches.append(_part(rectangle(x + 0.9, -11.5, x + 2.5, 0), mixed(stone, dark, 0.5)))
        patches.append(_part([(x - 3.1, -11.3), (x, -16), (x + 3.1, -11.3)], mixed(flag, "#2a2038", 0.25)))
        patches.append(_part(rectangle(x - 0.2, -18, x + 0.2, -15.5), WOOD))
        patches.append(_part([(x, -18.2), (x + 2.4, -17.4), (x, -16.6)], flag))
        patches.append(_window(x - 0.2, -8, 1.5, 2.2))
    gate = [(-1.9, 0), (-1.9, -3.2), (-1.1, -4.7), (0, -5.2), (1.1, -4.7), (1.9, -3.2), (1.9, 0)]
    return [*patches, _part(gate, "#3a2a24", "#7a4a1c")]


OBJECTS: dict[str, Draw] = {
    "house": house,
    "tree": tree,
    "car": car,
    "boat": boat,
    "balloon": balloon,
    "windmill": windmill,
    "lighthouse": lighthouse,
    "castle": castle,
}
