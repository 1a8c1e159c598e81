"""Random views of pictures for self-supervised training: what should not change what a small picture means.

Every picture gets draws of its own, all from one generator. torchvision's transforms draw once for a whole batch and
from the global generator, and one picture at a time they would take longer than the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

SMALLEST_CROP = 0.65  # of either side
STRETCH = 0.15  # largest ratio of the sides' scales, as a logarithm
TURN, SHEAR = 20.0, 15.0  # degrees
CONTRAST, BRIGHTNESS, TINT = 0.4, 0.2, 0.2
BLUR_SHARE, BLUR_SIGMA = 0.3, (0.3, 1.0)  # share of the pictures, and the standard deviation in pixels


def random_view(pictures: Tensor, flip: bool, random: torch.Generator) -> Tensor:
    """Cropped, turned, sheared, recoloured and blurred at random.

    Args:
        pictures: float32 -1..1, ``(B, C, H, W)``.
        flip: Whether to mirror half of them, too.
        random: A generator on the host; nothing else is drawn from.
    """
    return _blurred(_recoloured(_moved(pictures, flip, random), random), random)


def _moved(pictures: Tensor, flip: bool, random: torch.Generator) -> Tensor:
    """A random resized crop, turned and sheared, as one resampling; borders are continued outwards."""
    batch, _, height, width = pictures.shape
    draw = torch.rand(6, batch, generator=random)
    scale = SMALLEST_CROP + (1 - SMALLEST_CROP) * draw[0]
    stretch = (STRETCH * (2 * draw[1] - 1) / 2).exp()
    angle, shear = math.radians(TURN) * (2 * draw[2] - 1), math.radians(SHEAR) * (2 * draw[3] - 1)
    centre = (2 * draw[4:] - 1) * (1 - scale)  # (2, B): the crop stays inside the picture
    mirror = torch.where(torch.rand(batch, generator=random) < 0.5, -1.0, 1.0) if flip else torch.ones(batch)
    # affine_grid wants where each place of the result comes from, with the picture spanning -1..1.
    across, down, aspect = scale * stretch * mirror, scale / stretch, height / width
    affine = torch.stack(
        [
            torch.stack([across * angle.cos(), down * (angle + shear).sin() * aspect, centre[0]]),
            torch.stack([-across * angle.sin() / aspect, down * (angle + shear).cos(), centre[1]]),
        ]
    ).permute(2, 0, 1)  # (B, 2, 3)
    grid = functional.affine_grid(affine.to(pictures), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _recoloured(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Contrast and brightness, and for colour pictures saturation and a tint."""
    batch, channels = pictures.shape[:2]
    draw = (2 * torch.rand(batch, 3 + channels, generator=random) - 1).to(pictures)[:, :, None, None]
    if channels == 3:
        grey = pictures.mean(dim=1, keepdim=True)
        pictures = grey + (1 + CONTRAST * draw[:, 2:3]) * (pictures - grey) + TINT * draw[:, 3:]
    return ((1 + CONTRAST * draw[:, :1]) * pictures + BRIGHTNESS * draw[:, 1:2]).clamp(-1, 1)


def _blurred(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Some of the pictures, all with one kernel."""
    low, high = BLUR_SIGMA
    sigma = low + (high - low) * float(torch.rand((), generator=random))
    chosen = (torch.rand(len(pictures), generator=random) < BLUR_SHARE).to(pictures.device)
    blurred = gaussian_blur(pictures, [5, 5], [sigma, sigma])
    return torch.where(chosen[:, None, None, None], blurred, pictures)
