"""Tensors that are dear to compute, kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtdiff_core import UserError
from mtdiff_core.files import explained, tensor_file, write_atomically

log = logging.getLogger(__name__)

FORMAT = 2  # raise it whenever what is computed changes, so that no older result is taken for it


def cached(
    folder: Path,
    key: Mapping[str, str | int],
    compute: Callable[[], dict[str, Tensor]],
    room: str = "representation",
) -> dict[str, Tensor]:
    """What ``compute()`` gives, from disk if it was computed before.

    A file that is damaged, by the checksum in it, or was made under another key, is computed again and replaced. A
    cache that cannot be written costs time, nothing else.

    Args:
        folder: The cache.
        key: Everything that the result depends on, kept in the file and checked when it is read.
        compute: Gives tensors by name, on the host.
        room: Name of the folder in the cache.
    """
    key = {**key, "format": FORMAT}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder / room / f"{key['what']}-{digest[:32]}.safetensors"
    found = _read(path, key)
    if found is not None:
        return found
    computed = {name: tensor.contiguous() for name, tensor in compute().items()}
    try:
        with explained("cannot make the cache", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, tensor_file(computed, {"key": key, "sha256": _sha256(computed)}))
    except UserError as error:
        log.warning("not kept for another time: %s", error)
    return computed


def _read(path: Path, key: Mapping[str, str | int]) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("mtdiff", "{}"))
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if about == {"key": key, "sha256": _sha256(found)}:
            return found
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError):
        pass
    log.warning("%s is not what was kept there, and is computed again", path)
    return None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of contiguous tensors, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
