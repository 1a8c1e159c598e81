"""Colours of classes."""

from __future__ import annotations

import re

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255
HEX = re.compile(r"#[0-9a-fA-F]{6}")
VOID = 255


def voc_colour(index: int) -> Colour:
    """Colour of class ``index`` in the PASCAL VOC colormap: three bits of it at a time, spread from the top down.

    Source: ``VOClabelcolormap.m`` of the VOC development kit.
    """
    levels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            levels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return levels[0], levels[1], levels[2]


def hex_colour(text: str) -> Colour:
    """``"#rrggbb"`` to red, green and blue.

    Raises:
        ValueError: The text is no such colour.
    """
    if not HEX.fullmatch(text):
        raise ValueError(f"must hold colours such as '#ff8000', not {text!r}")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
