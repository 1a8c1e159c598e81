"""White vectors as pictures."""

from __future__ import annotations

import torch
from torch import Tensor

HEIGHT, BAR = 32, 2  # pixels
REACH = 3.0  # standard deviations from the middle line to either edge
MOST_BARS = 64
PAPER, LINE = (247, 247, 247), (150, 150, 150)
ABOVE, BELOW = (178, 24, 43), (33, 102, 172)  # the ends of ColorBrewer's diverging RdBu


def draw_bars(values: Tensor) -> Tensor:
    """One bar for each of the leading dimensions, up and red above 0, down and blue below, stronger further out.

    Args:
        values: White vectors ``(B, D)``.

    Returns:
        uint8 ``(B, 3, 32, 2 D)``, of the first 64 dimensions where there are more.
    """
    paper, line, above, below = (torch.tensor(c).float()[:, None, None] for c in (PAPER, LINE, ABOVE, BELOW))
    reached = (values[:, :MOST_BARS].float() / REACH).clamp(-1, 1).repeat_interleave(BAR, dim=1)[:, None, None]
    height = (torch.arange(HEIGHT)[:, None].flip(0) + 0.5) / HEIGHT * 2 - 1  # (HEIGHT, 1), upwards
    filled = (height.sign() == reached.sign()) & (height.abs() <= reached.abs())  # (B, 1, HEIGHT, BAR * D)
    colour = torch.where(reached > 0, above, below)
    strength = 0.4 + 0.6 * reached.abs()
    bars = torch.where(filled, paper + strength * (colour - paper), paper)  # (B, 3, HEIGHT, BAR * D)
    bars[:, :, HEIGHT // 2] = torch.where(filled[:, :, HEIGHT // 2], bars[:, :, HEIGHT // 2], line[:, 0])
    return bars.round().byte()
