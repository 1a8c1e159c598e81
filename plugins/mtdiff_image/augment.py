"""Random changes of training images, another for each image. All take and give ``(B, C, H, W)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def moved(images: Tensor, degrees: float, pixels: float, generator: torch.Generator) -> Tensor:
    """Turned by up to ``degrees`` and moved by up to ``pixels``; borders are continued outwards."""
    batch, _, height, width = images.shape
    angle, right, down = 2 * torch.rand(3, batch, generator=generator) - 1  # each in -1..1
    angle = angle * math.radians(degrees)
    # affine_grid wants where each place of the result comes from, with the picture spanning -1..1
    aspect = height / width
    affine = torch.stack(
        [
            torch.stack([angle.cos(), angle.sin() * aspect, right * 2 * pixels / width]),
            torch.stack([-angle.sin() / aspect, angle.cos(), down * 2 * pixels / height]),
        ]
    ).permute(2, 0, 1)  # (B, 2, 3)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
