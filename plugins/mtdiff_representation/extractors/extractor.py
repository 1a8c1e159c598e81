"""What an extractor is, and what those that run a network share.

Letters for shapes: N samples of a split, B batch, F features. Networks take pictures as the image modality's model
values: float32 -1..1, ``(B, C, H, W)``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtdiff_core import UserError
from mtdiff_representation.cache import cached
from mtdiff_representation.pictures import PICTURES

if TYPE_CHECKING:
    from mtdiff_core import Samples, Workshop
    from mtdiff_representation.modality import Representation

BATCH = 256


class Extractor(ABC):
    """Gives features of pictures.

    Args:
        options: The modality's options.
    """

    def __init__(self, options: Representation) -> None:
        self.options = options

    @abstractmethod
    def learn(self, samples: Samples, field: str, workshop: Workshop) -> dict[str, Tensor]:
        """Tensors to be kept with the model: what :meth:`of_pictures` needs, or knows its network by.

        Their names begin with ``network``.
        """

    @abstractmethod
    def of_split(
        self, samples: Samples, field: str, state: Mapping[str, Tensor], workshop: Workshop
    ) -> tuple[Tensor, Tensor]:
        """Features of a split, float32 ``(N, F)``, and which samples have the field, bool ``(N,)``; others' are 0."""

    @abstractmethod
    def of_pictures(self, pictures: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Features of pictures ``(B, C, H, W)``, float32 ``(B, F)``."""


class NetworkExtractor(Extractor):
    """Features that a network gives, computed once for each split and cached."""

    @abstractmethod
    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The network that ``state`` was learnt from: pictures ``(B, C, H, W)`` to features ``(B, F)``.

        Raises:
            UserError: It cannot be had any more, or is another one now.
        """

    def of_split(
        self, samples: Samples, field: str, state: Mapping[str, Tensor], workshop: Workshop
    ) -> tuple[Tensor, Tensor]:
        """Features from the cache, or else from the network."""
        weights = {name: tensor for name, tensor in state.items() if name.startswith("network")}  # not the whitening
        key: dict[str, str | int] = {
            "what": "features",
            "data": workshop.content_hash(samples, field),
            "weights": fingerprint(weights).numpy().tobytes().hex(),
            "network": self.options.network,
            "extractor": self.options.extractor,
            "resolution": self.options.resolution,
            "device": workshop.device.type,
        }
        found = cached(workshop.cache, key, lambda: self._compute(samples, field, state, workshop))
        return found["features"], found["present"].bool()

    def _compute(
        self, samples: Samples, field: str, state: Mapping[str, Tensor], workshop: Workshop
    ) -> dict[str, Tensor]:
        network = self.network(state).to(workshop.device).eval()
        advance = workshop.progress(f"representing {field}", len(samples))
        features: list[Tensor] = []
        present = torch.zeros(len(samples), dtype=torch.uint8)
        for first in range(0, len(samples), BATCH):
            indices = range(first, min(first + BATCH, len(samples)))
            found = {i: value for i in indices if (value := samples[i].get(field)) is not None}
            if found:
                present[list(found)] = 1
                stored = torch.stack(list(found.values())).to(workshop.device)  # (B, C, H, W)
                pictures = PICTURES.prepare(stored, torch.Generator())
                features.append(run(network, pictures).cpu())
            advance(len(indices))
        if not features:
            raise UserError(f"no sample has the field {field!r}", "data")
        rows = torch.zeros(len(samples), features[0].shape[1])  # (N, F)
        rows[present.bool()] = torch.cat(features)
        return {"features": rows, "present": present}

    def of_pictures(self, pictures: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Features from the network, on the host."""
        network = self.network(state).eval()
        return torch.cat([run(network, part) for part in torch.split(pictures, BATCH)])


@torch.no_grad()
def run(network: nn.Module, pictures: Tensor) -> Tensor:
    """Features ``(B, F)``, float32.

    Raises:
        UserError: They are no vectors, or not finite.
    """
    features: Tensor = network(pictures).float()
    if features.ndim != 2:
        raise UserError(f"the network gives features of shape {tuple(features.shape[1:])}, not a vector", "network")
    if not features.isfinite().all():
        raise UserError("the network gives features that are not finite", "weights")
    return features


def fingerprint(tensors: Mapping[str, Tensor]) -> Tensor:
    """SHA-256 of tensors by name, uint8 ``(32,)``: the same for the same weights, from whatever file they came."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
