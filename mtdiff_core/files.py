"""Atomic writes: a file is there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mtdiff_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CONVERT = """only safetensors is read, since other formats can run code; to convert a file that you trust:
    import torch; from safetensors.torch import save_file
    save_file(torch.load("network.pth", map_location="cpu", weights_only=True), "network.safetensors")"""


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file aside, sync it, and rename it into place.

    Raises:
        UserError: The disk is full, or the place cannot be written to; what was there before still is.
    """
    with written_whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece: it lies aside, and is synced and renamed into place when the block ends well.

    Raises:
        UserError: As :func:`write_atomically`.
    """
    aside = path.with_name(f".{path.name}.partial")
    with explained(f"cannot write {path.name}", path.parent):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:  # also Ctrl-C
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def user_path(text: str) -> Path:
    """A path as a user writes it; ``~`` is a home directory.

    Raises:
        UserError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"cannot be found ({error})", text, "~ is your own home, ~name that of a user") from error


def read_text(path: Path) -> str:
    """A text file of the user's.

    Raises:
        UserError: It cannot be read, or is not UTF-8.
    """
    with explained("cannot be read", path):
        data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start}: {error.reason})", str(path)) from error


def tensor_file(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A safetensors file; equal content gives equal bytes.

    Args:
        tensors: Contiguous tensors by name.
        about: JSON data, kept under the one metadata key ``mtdiff``: safetensors writes several keys in random order.
    """
    from safetensors.torch import save

    return save(dict(tensors), metadata={"mtdiff": json.dumps(about)})


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file, by name.

    Raises:
        UserError: It cannot be read, or is no safetensors file.
    """
    import safetensors.torch

    with explained("cannot read weights", path):
        data = path.read_bytes()
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError("is no safetensors file", str(path), CONVERT) from error


@contextlib.contextmanager
def explained(what: str, where: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``UserError`` that says what was being done, and where."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else (error.strerror or str(error))
        hint = "make room and try again; what was saved before is whole" if full else ""
        raise UserError(f"{what}: {reason}", str(where), hint) from error
