"""Masks and class maps as files. Pillow decodes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from mtdiff_core import UserError
from mtdiff_core.files import write_atomically
from mtdiff_image.files import list_pictures, read_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtdiff_mask.palette import Colour

CLASS_MAP = "expected an indexed or 8-bit grey PNG whose values are classes"


def read_mask(path: Path, size: tuple[int, int], pictures: Path) -> Tensor:
    """A mask for pictures that are read at ``size``: white is visible, bool ``(1, 1, H, W)``.

    Args:
        path: The mask, a picture file of ``size`` or of the pictures' own size, with which it is resized and cropped.
        size: Height and width.
        pictures: The picture file, or folder of them, that it is for.

    Raises:
        UserError: It cannot be read, or has another size.
    """
    grey = read_picture(path, (1, *size))
    own, files = _size(path), list_pictures(pictures) if pictures.is_dir() else [pictures]
    pictured = {_size(file) for file in files}
    if own != size and pictured != {own}:
        sizes = ", ".join(sorted(f"{w}x{h}" for h, w in pictured))
        raise UserError(
            f"the mask has {own[1]}x{own[0]} pixels, and what it is for has {sizes}",
            str(path),
            f"make it the picture's size, or the model's own, {size[1]}x{size[0]}",
        )
    return grey[None] > 127


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a picture that is known to be readable, as it is to be looked at."""
    with Image.open(path) as file:
        width, height = ImageOps.exif_transpose(file).size
    return height, width


def read_class_map(path: Path) -> Tensor:
    """The values of an indexed or 8-bit grey PNG as they stand in the file, int64 ``(h, w)``.

    Raises:
        UserError: It cannot be read, or holds colours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.mode not in ("P", "L", "1"):
                raise UserError(
                    f"is a PNG of colours or 16-bit values (Pillow's mode {file.mode})", str(path), CLASS_MAP
                )
            return torch.as_tensor(pil_to_tensor(file)).long().squeeze(0)
    except UnidentifiedImageError as error:
        raise UserError("is no PNG", str(path), CLASS_MAP) from error
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError is Pillow's for a broken PNG
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read as a PNG ({reason})", str(path), CLASS_MAP) from error


def write_indexed_png(path: Path, classes: Tensor, palette: Sequence[Colour]) -> None:
    """Write a class map as an indexed PNG, the form in which segmentation data sets keep theirs.

    Args:
        path: The file.
        classes: Integers 0 to 255, ``(H, W)``.
        palette: Red, green and blue, 0 to 255, of class 0, 1, ...; at most 256.

    Raises:
        UserError: The file cannot be written.
    """
    picture = to_pil_image(classes.byte()[None])
    picture.putpalette([level for colour in palette for level in colour])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
