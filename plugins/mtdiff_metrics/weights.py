"""Weights of published networks from a local file: tensors alone, never code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from mtdiff_core import UserError
from mtdiff_core.files import explained


def read_weights(file: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict that torch saved.

    Raises:
        UserError: It cannot be read, or holds anything but tensors by name.
    """
    path = Path(file).expanduser()
    with explained("cannot read weights", path):
        data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols: what cannot be read is refused below
            # weights_only: nothing in the file is run, whatever it says.
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError("holds no weights that can be read", str(path), reason[:200]) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError("holds something else than tensors by name", str(path), "save a network's state_dict()")
    return dict(found)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str, what: str) -> None:
    """Give a network its weights; those that it has no use for are left out.

    Args:
        network: The network.
        weights: Tensors by the network's own names.
        where: The file, for messages.
        what: Name of the network, for messages.

    Raises:
        UserError: Weights are missing, or of another shape.
    """
    own = network.state_dict()
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # counts that only training reads; some files leave them out
            continue
        if name not in weights:
            raise UserError(f"does not hold the weights of {what}: {name!r} is missing", where)
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(value.shape)}"
            raise UserError(f"does not hold the weights of {what}: {name!r} has the shape {shapes}", where)
    network.load_state_dict({name: weights.get(name, value) for name, value in own.items()})
