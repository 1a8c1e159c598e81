"""The ``diffusers`` library itself: whether it is there, and what it has written into local folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from mtdiff_core import UserError
from mtdiff_core.files import user_path

if TYPE_CHECKING:
    from torch import nn

N = TypeVar("N", bound="nn.Module")

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def diffusers() -> ModuleType:
    """The library.

    Raises:
        UserError: It is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError(f"needs the diffusers library ({error})", hint="pip install 'mtdiff[diffusers]'") from error
    module: ModuleType = diffusers
    return module


def read_config(folder: str, of: str, where: str) -> dict[str, Any]:
    """The configuration in a folder that a model's ``save_pretrained`` wrote.

    Args:
        folder: The folder.
        of: The class that it has to be of, such as ``"UNet2DModel"``.
        where: What an error names: the option's key.

    Raises:
        UserError: It is no such folder, or of another class. What it gives raises it too, for a key that it lacks.
    """
    path = user_path(folder)
    wanted = f"a local folder that {of}.save_pretrained wrote: {CONFIG} and {WEIGHTS}"
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise UserError(f"{folder!r} has no {name}", where, wanted)
    try:
        found: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        actual = found["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{CONFIG} in {folder!r} cannot be read ({error!r})", where, wanted) from error
    if actual != of:
        raise UserError(f"{folder!r} holds a {actual}, not a {of}", where, wanted)
    return _Config(folder, where, found)


class _Config(dict[str, Any]):
    """A configuration that says where it lies if it lacks something."""

    def __init__(self, folder: str, where: str, found: Mapping[str, Any]) -> None:
        super().__init__(found)
        self._folder, self._where = folder, where

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{CONFIG} in {self._folder!r} has no {key!r}", self._where, "the library writes it itself")


def read_model(folder: str, cls: type[N], where: str) -> N:
    """A model of the library from such a folder, without the network and without unpickling.

    Raises:
        UserError: The folder or its weights are not those of such a model.
    """
    read_config(folder, cls.__name__, where)
    try:
        model: N = cls.from_pretrained(  # type: ignore[attr-defined]
            str(user_path(folder)), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # the library raises whatever it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder!r} cannot be read ({reason})", where) from error
    return model
