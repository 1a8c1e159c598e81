"""Masks, bool ``(N, 1, H, W)``: True where a picture is visible. Whatever is random comes from the generator."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

Size = tuple[int, int]

MAX_STROKES = 4
MAX_CORNERS = 12
# As shares of the picture's shorter side.
STROKE_LENGTH = (0.1, 0.3)
STROKE_WIDTH = (0.08, 0.2)


def patches(shares: Tensor, size: Size, patch: int, generator: torch.Generator) -> Tensor:
    """Squares of a grid hidden, drawn without replacement.

    Args:
        shares: The share of the squares that each mask hides, 0 to 1, ``(N,)``; rounded to whole squares.
        size: Height and width.
        patch: Side of a square in pixels; those at the right and bottom border may be cut.
        generator: Draws which squares.
    """
    (height, width), count = size, len(shares)
    rows, columns = math.ceil(height / patch), math.ceil(width / patch)
    ranks = torch.rand(count, rows * columns, generator=generator).argsort(dim=1).argsort(dim=1)
    visible = ranks >= (shares[:, None] * rows * columns).round()  # (N, rows * columns)
    grid = visible.reshape(count, 1, rows, columns)
    return grid.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)[..., :height, :width]


def half(side: str, size: Size) -> Tensor:
    """The left, right, top or bottom half hidden, ``(1, 1, H, W)``."""
    height, width = size
    rows, columns = torch.arange(height)[:, None].expand(size), torch.arange(width).expand(size)
    hidden = {
        "left": columns < width // 2,
        "right": columns >= width // 2,
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
    }
    return ~hidden[side][None, None]


def halves(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """One half hidden, any of the four alike often."""
    each = torch.cat([half(side, size) for side in ("left", "right", "top", "bottom")])  # (4, 1, H, W)
    return each[torch.randint(4, (count,), generator=generator)]


def strokes(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """One to four free-form brush strokes hidden, as in Yu et al. 2019 (arXiv 1806.03589)."""
    masks = torch.empty(count, 1, *size, dtype=torch.bool)
    for mask in masks:
        mask[:] = _painted(size, generator)
    return masks


def _painted(size: Size, generator: torch.Generator) -> Tensor:
    """One mask of brush strokes, bool ``(1, H, W)``."""
    height, width = size
    canvas = Image.new("L", (width, height), 255)
    brush = ImageDraw.Draw(canvas)
    for _ in range(int(torch.randint(1, MAX_STROKES + 1, (), generator=generator))):
        thickness = max(1, round(min(size) * float(_uniform(*STROKE_WIDTH, 1, generator))))
        corners = [(x, y) for x, y in _corners(size, generator).tolist()]
        brush.line(corners, fill=0, width=thickness, joint="curve")
        for end in (corners[0], corners[-1]):  # a brush is round; Pillow's lines end straight
            brush.circle(end, (thickness - 1) / 2, fill=0)
    return torch.as_tensor(pil_to_tensor(canvas) > 0)


def _corners(size: Size, generator: torch.Generator) -> Tensor:
    """A wandering line, as corners ``(n, 2)``, each x and y; it turns by up to a quarter circle, and at the borders."""
    height, width = size
    steps = int(torch.randint(3, MAX_CORNERS, (), generator=generator))
    turns = (torch.rand(steps, generator=generator) - 0.5) * math.pi
    turns[0] *= 4  # the first direction is any
    heading, length = turns.cumsum(dim=0), min(size) * _uniform(*STROKE_LENGTH, steps, generator)
    moves = torch.stack([heading.cos() * length, heading.sin() * length], dim=1)  # (n - 1, 2)
    extent = torch.tensor([width, height])
    start = torch.rand(1, 2, generator=generator) * extent
    line = torch.cat([start, start + moves.cumsum(dim=0)])
    return (line % (2 * extent) - extent).abs()  # as if the borders were mirrors


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
