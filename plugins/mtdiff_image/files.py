"""Picture files to tensors: Pillow decodes, torchvision resizes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtdiff_core import UserError
from mtdiff_core.files import explained, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mtdiff_core import Shape

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EXPECTED = "expected PNG, JPEG or WebP"


def list_pictures(folder: Path) -> list[Path]:
    """Picture files anywhere below a folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_picture(path: Path, shape: Shape) -> Tensor:
    """One picture, resized so that it covers ``shape`` and cropped at the centre.

    Args:
        path: PNG, JPEG or WebP; its EXIF orientation is applied, transparency is ignored.
        shape: ``(C, H, W)``, C = 1 for grey, 3 for RGB.

    Returns:
        uint8 ``(C, H, W)``.

    Raises:
        UserError: The file cannot be read as a picture.
    """
    channels, height, width = shape
    return fit(_decode(path, "L" if channels == 1 else "RGB"), height, width)


def fit(picture: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """A picture ``(C, h, w)``, resized so that it covers ``height`` and ``width`` and cropped at the centre.

    ``nearest`` mixes no two pixels, for pictures whose values are classes.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    scale = max(height / picture.shape[1], width / picture.shape[2])
    covering = [max(height, round(picture.shape[1] * scale)), max(width, round(picture.shape[2] * scale))]
    interpolation = InterpolationMode.NEAREST_EXACT if nearest else InterpolationMode.BILINEAR
    resized = functional.resize(picture, covering, interpolation=interpolation, antialias=True)
    return torch.as_tensor(functional.center_crop(resized, [height, width]))


def _decode(path: Path, mode: str) -> Tensor:
    """A picture at its own size, uint8 ``(C, h, w)``, in one of Pillow's modes ``"L"`` (grey) and ``"RGB"``."""
    from PIL import Image, ImageOps, UnidentifiedImageError
    from torchvision.transforms.v2 import functional

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode == "I;16":  # Pillow would clip 16-bit greys at 255
                picture = picture.point(lambda grey: grey / 256, "L")
            return torch.as_tensor(functional.pil_to_tensor(picture.convert(mode)))
    except UnidentifiedImageError as error:
        raise UserError("is no picture", str(path), EXPECTED) from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError is Pillow's for a broken PNG
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read as a picture ({reason})", str(path), EXPECTED) from error


def write_png(path: Path, picture: Tensor) -> None:
    """Write a picture, and make its folder if there is none.

    Args:
        path: The file.
        picture: uint8 ``(C, H, W)``: grey or RGB, and one channel more if the last one is opacity.

    Raises:
        UserError: The file cannot be written.
    """
    from torchvision.transforms.v2 import functional

    buffer = io.BytesIO()
    functional.to_pil_image(picture).save(buffer, format="PNG")
    with explained("cannot make the folder", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def read_pictures(paths: Sequence[Path], shape: Shape) -> Tensor:
    """Several pictures, uint8 ``(N, C, H, W)``. See :func:`read_picture`."""
    return torch.stack([read_picture(path, shape) for path in paths])
