"""Picture files to tensors: Pillow decodes, torchvision resizes."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mtdiff_core import UserError
from mtdiff_core.files import explained, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image as PillowImage
    from torch import Tensor

    from mtdiff_core import Shape

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EXPECTED = "expected PNG, JPEG or WebP"


def given_pictures(text: str, expected: str) -> list[Path]:
    """The picture files that a user names: one, or a folder of them.

    Args:
        text: A path.
        expected: What can be given, for messages.

    Raises:
        UserError: There is nothing there, or no picture.
    """
    path = given_path(text)
    if path is None:
        raise UserError("no such file or folder", text or "''", expected)
    files = list_pictures(path) if path.is_dir() else [path]
    if not files:
        raise UserError("holds no pictures", str(path), expected)
    return files


def given_path(text: str) -> Path | None:
    """The file or folder that a user names, None if there is none."""
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (RuntimeError, OSError):  # "~nobody/photo.png"; more letters than a path may have
        return None


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
    return fit(decode_picture(path, channels), height, width)


def decode_picture(path: Path, channels: int) -> Tensor:
    """A picture at its own size, uint8 ``(C, h, w)``, C = 1 for grey, 3 for RGB.

    Raises:
        UserError: The file cannot be read as a picture.
    """
    from PIL import ImageOps
    from torchvision.transforms.v2 import functional

    with open_picture(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode == "I;16":  # Pillow would clip 16-bit greys at 255
            picture = picture.point(lambda grey: grey / 256, "L")
        return torch.as_tensor(functional.pil_to_tensor(picture.convert("L" if channels == 1 else "RGB")))


def fit(picture: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """A picture ``(..., h, w)``, resized so that it covers ``(..., height, width)`` and cropped at the centre.

    Args:
        picture: uint8.
        height: In pixels.
        width: In pixels.
        nearest: Take the nearest value rather than a mean of neighbours: for values that are no amounts.
    """
    from torchvision.transforms.v2 import functional

    scale = max(height / picture.shape[-2], width / picture.shape[-1])
    covering = [max(height, round(picture.shape[-2] * scale)), max(width, round(picture.shape[-1] * scale))]
    modes = functional.InterpolationMode
    mode = modes.NEAREST_EXACT if nearest else modes.BILINEAR
    resized = functional.resize(picture, covering, interpolation=mode, antialias=not nearest)
    return torch.as_tensor(functional.center_crop(resized, [height, width]))


@contextmanager
def open_picture(path: Path) -> Iterator[PillowImage]:
    """A picture file, open in Pillow; what Pillow raises while it is open becomes a ``UserError``."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            yield file
    except UnidentifiedImageError as error:
        raise UserError("is no picture", str(path), EXPECTED) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # SyntaxError is Pillow's for a broken PNG
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
