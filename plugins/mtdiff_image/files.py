"""Picture files to tensors, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtdiff_core import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mtdiff_core import Shape

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def list_pictures(folder: Path) -> list[Path]:
    """Picture files anywhere below a folder, sorted, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def read_picture(path: Path, shape: Shape) -> Tensor:
    """One picture, resized so that it covers ``shape`` and cropped at the centre.

    Args:
        path: PNG, JPEG or WebP; its EXIF orientation is applied.
        shape: ``(C, H, W)``, C = 1 for grey, 3 for RGB.

    Returns:
        uint8 ``(C, H, W)``.

    Raises:
        UserError: The file cannot be read as a picture.
    """
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional

    channels, height, width = shape
    mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
    try:
        picture = decode_image(str(path), mode=mode, apply_exif_orientation=True)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"cannot be read as a picture ({reason})", str(path), "expected PNG, JPEG or WebP") from error
    scale = max(height / picture.shape[1], width / picture.shape[2])
    covering = [max(height, round(picture.shape[1] * scale)), max(width, round(picture.shape[2] * scale))]
    resized = functional.resize(picture, covering, antialias=True)
    return torch.as_tensor(functional.center_crop(resized, [height, width]))


def read_pictures(paths: Sequence[Path], shape: Shape) -> Tensor:
    """Several pictures, uint8 ``(N, C, H, W)``. See :func:`read_picture`."""
    return torch.stack([read_picture(path, shape) for path in paths])
