"""A whole scene from random numbers: sky, sun, clouds, hills, ground or water, and one object."""

from __future__ import annotations

import math
from random import Random

import attrs

from mtdiff_datasets.scenes.objects import OBJECTS
from mtdiff_datasets.scenes.patch import WORLD, Patch, Point, ellipse, mixed, rectangle

LANDSCAPE = ("sky", "sun", "cloud", "hills", "ground", "water")
CATEGORIES = (*LANDSCAPE, *OBJECTS)
AFLOAT = {"boat"}
HORIZON = 20.0


@attrs.frozen
class Palette:
    """Colours that go together, ``"#rrggbb"`` each."""

    zenith: str
    horizon: str
    far: str
    near: str
    ground: str
    water: str


PALETTES = (
    Palette("#3f8fd8", "#d3ecf8", "#8fb3c9", "#6fa56a", "#7fbf5a", "#3f8fb8"),  # a clear noon
    Palette("#5b8fc7", "#fbe3b8", "#c4a58f", "#9aa05a", "#c9b653", "#5f97a8"),  # late summer
    Palette("#62b2e6", "#eaf6e4", "#9fc6bb", "#7db87a", "#9ad067", "#4fa9b5"),  # spring
    Palette("#6a9ccf", "#f8e2cc", "#b08f97", "#b5793f", "#cf9d4c", "#54849c"),  # autumn
    Palette("#74a9dc", "#eef5fa", "#b5c8d9", "#c9dae7", "#f0f6fb", "#6f9fc0"),  # snow
    Palette("#7d8fd0", "#fcd3c2", "#a98fb3", "#7c8f86", "#8fb07a", "#6d87b4"),  # a rosy morning
    Palette("#4aa3d6", "#fdeacb", "#d8a684", "#c4885e", "#e6c084", "#3fa3a8"),  # the south
)


@attrs.frozen(kw_only=True)
class Scene:
    """A scene, ready to be painted.

    Attributes:
        palette: Its colours.
        sun: Where the sun stands by day and the moon at night.
        patches: From the farthest to the nearest; what they do not cover is sky.
    """

    palette: Palette
    sun: Point
    patches: tuple[Patch, ...]


def draw_scene(kind: str, random: Random) -> Scene:
    """A scene that shows an object of this kind; everything else is drawn from ``random``."""
    palette = random.choice(PALETTES)
    side = random.choice((-1, 1))  # the object keeps to one side, the sun to the other
    sun = (16 - side * random.uniform(5, 12), random.uniform(4.5, 8.5))
    on_water = kind in AFLOAT or (kind == "lighthouse" and random.random() < 0.5)
    patches = [
        *_stars(random),
        *_sun(sun, random),
        *_clouds(side, random),
        *_hills(palette, random),
        *(_water(palette, sun, random) if on_water else _ground(palette, kind, random)),
        *_object(kind, palette, side, on_water, random),
    ]
    return Scene(palette=palette, sun=sun, patches=tuple(patches))


def _stars(random: Random) -> list[Patch]:
    places = [(random.uniform(0, WORLD), random.uniform(0, HORIZON - 5)) for _ in range(random.randint(9, 15))]
    shades = ("#ffffff", "#c8d4ff", "#8c96c0")
    return [Patch(outline=tuple(rectangle(x, y, x + 0.75, y + 0.75)), light=random.choice(shades)) for x, y in places]


def _sun(centre: Point, random: Random) -> list[Patch]:
    """By day the sun; at night the moon, with two dark spots."""
    (x, y), radius = centre, random.uniform(2.4, 3.2)
    discs = [(x, y, radius, "#d5dae6"), (x - 0.9, y - 0.5, 0.8, "#8c96b0"), (x + 0.9, y + 0.9, 0.6, "#98a2ba")]
    return [
        Patch(outline=tuple(ellipse(cx, cy, r)), day="#fff3b4", light=light, category="sun")
        for cx, cy, r, light in discs
    ]


def _clouds(side: int, random: Random) -> list[Patch]:
    """Up to two clouds; they leave the sun alone."""
    patches = []
    for _ in range(random.choice((0, 1, 1, 2))):
        x, y, width = 16 + side * random.uniform(0, 14), random.uniform(3, 12), random.uniform(2.2, 3.6)
        puffs = [(0, 0, 1.0, 0.42), (-0.85, 0.22, 0.7, 0.28), (0.9, 0.2, 0.8, 0.3)]
        for dx, dy, w, h in puffs:
            outline = ellipse(x + dx * width, y + dy * width, w * width, h * width)
            patches.append(Patch(outline=tuple(outline), day="#fcfdff", category="cloud"))
    return patches


def _ridge(base: float, height: float, random: Random, waves: float) -> list[Point]:
    """Rolling hills from edge to edge, down to the lower border."""
    phases = [random.uniform(0, 2 * math.pi) for _ in range(2)]
    points = []
    for x in range(WORLD + 1):
        turn = 2 * math.pi * x / WORLD
        wave = 0.65 * math.sin(waves * turn + phases[0]) + 0.35 * math.sin(2.3 * waves * turn + phases[1])
        points.append((float(x), base - height * wave))
    return [*points, (float(WORLD), float(WORLD)), (0.0, float(WORLD))]


def _hills(palette: Palette, random: Random) -> list[Patch]:
    far = _ridge(HORIZON - random.uniform(2.5, 4), random.uniform(1.2, 2.4), random, random.uniform(0.9, 1.6))
    near = _ridge(HORIZON - random.uniform(0, 1), random.uniform(0.6, 1.4), random, random.uniform(0.7, 1.2))
    return [
        Patch(outline=tuple(far), day=palette.far, category="hills"),
        Patch(outline=tuple(near), day=palette.near, category="hills"),
    ]


def _ground(palette: Palette, kind: str, random: Random) -> list[Patch]:
    """Meadows, darker towards the front; a road for a car."""
    shades = [palette.ground, mixed(palette.ground, "#24402a", 0.12), mixed(palette.ground, "#24402a", 0.24)]
    outlines = [_ridge(y, 0.5, random, random.uniform(0.4, 0.9)) for y in (HORIZON + 1.5, 25.5, 29.3)]
    patches = [
        Patch(outline=tuple(outline), day=shade, category="ground")
        for outline, shade in zip(outlines, shades, strict=True)
    ]
    if kind == "car":
        patches.append(Patch(outline=tuple(rectangle(0, 25.2, WORLD, 29.6)), day="#7d7b84", category="ground"))
        patches += [
            Patch(outline=tuple(rectangle(x, 27.2, x + 2.6, 27.8)), day="#f3ecd8", category="ground")
            for x in range(-2, WORLD, 6)
        ]
    return patches


def _water(palette: Palette, sun: Point, random: Random) -> list[Patch]:
    """A lake with ripples, and the sun's or the moon's path on it."""
    shore = HORIZON + 1.2
    bands = [(shore, 0.0), (shore + 2.4, 0.12), (shore + 6, 0.24)]
    patches = [
        Patch(outline=tuple(rectangle(0, y, WORLD, WORLD)), day=mixed(palette.water, "#12305a", s), category="water")
        for y, s in bands
    ]
    for i in range(6):
        y, width = shore + 0.7 + 1.9 * i, random.uniform(1.0, 2.6)
        x = sun[0] + random.uniform(-1.2, 1.2)
        day = mixed(palette.water, "#fff6cf", 0.75)
        ripple = ellipse(x, y, width, 0.38, corners=10)
        patches.append(Patch(outline=tuple(ripple), day=day, light="#8f9dc4", category="water"))
    return patches


def _object(kind: str, palette: Palette, side: int, on_water: bool, random: Random) -> list[Patch]:
    """The object with its shadow or its rock, moved, scaled and perhaps mirrored."""
    scale = random.uniform(0.9, 1.15)
    x, y = 16 + side * random.uniform(1, 5), random.uniform(26.0, 28.5)
    if kind == "balloon":
        y = random.uniform(17.5, 20.5)
        scale *= 0.85
    facing = random.choice((-1, 1)) if kind in ("car", "boat", "house", "tree") else 1
    patches = [*_below(kind, palette, on_water), *OBJECTS[kind](random)]
    return [
        attrs.evolve(
            patch,
            outline=tuple((x + facing * scale * px, y + scale * py) for px, py in patch.outline),
            category=patch.category or (kind if patch.day else ""),
        )
        for patch in patches
    ]


def _below(kind: str, palette: Palette, on_water: bool) -> list[Patch]:
    """What an object stands on: a rock in the water, else its shadow."""
    if kind == "balloon":
        return []
    if kind == "lighthouse" and on_water:
        rock = [(-9, 1.8), (-6.5, -0.4), (-3, -1.6), (4, -1.4), (7, 0), (9.5, 1.8)]
        return [Patch(outline=tuple(rock), day=mixed(palette.far, "#4a4038", 0.55), category="ground")]
    colour = palette.water if on_water else palette.ground
    width = 9.5 if kind in ("car", "boat", "castle", "house") else 6.0
    below, dark = ("water" if on_water else "ground"), mixed(colour, "#14203a", 0.45)
    if kind == "car":
        dark = "#55535e"
    return [Patch(outline=tuple(ellipse(0, 0.1, width, 1.1)), day=dark, category=below)]
