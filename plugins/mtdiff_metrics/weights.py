"""Weights of published networks, given to networks that need not use all of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mtdiff_core import UserError
from mtdiff_representation.extractors.extractor import fingerprint

DIGITS = 8  # of a checksum, which are enough to tell files apart


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


def checksum(weights: Mapping[str, Tensor]) -> str:
    """The beginning of the weights' SHA-256 in hexadecimal: names of extractors tell by it which weights they have."""
    return fingerprint(weights).numpy().tobytes().hex()[:DIGITS]
