"""Weights of published networks: a local safetensors file, never a pickle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtdiff_core import UserError
from mtdiff_representation.extractors.extractor import NetworkExtractor, fingerprint

if TYPE_CHECKING:
    from mtdiff_core import Samples, Workshop

FINGERPRINT = "network_sha256"


class PublishedNetwork(NetworkExtractor):
    """A network whose weights stay where they are; the model keeps their checksum."""

    def learn(self, samples: Samples, field: str, workshop: Workshop) -> dict[str, Tensor]:
        """The weights' checksum."""
        return {FINGERPRINT: fingerprint(self.load().state_dict())}

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The network, if it is still the one that the model was trained with."""
        network = self.load()
        if not fingerprint(network.state_dict()).equal(state[FINGERPRINT]):
            raise UserError(
                "holds other weights than those that the model was trained with",
                self.options.weights or self.options.network,
                "put the former file back, or train again",
            )
        return network

    @abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights: pictures ``(B, C, H, W)`` to features ``(B, F)``.

        Raises:
            UserError: There is no such network, or its weights cannot be had.
        """


class Standardised(nn.Module):
    """A network that expects RGB pictures of one size with standardised channels, for pictures of any kind.

    Args:
        network: The network.
        size: Height and width that it was trained with.
        mean: Mean of each channel of its training pictures, in 0..1.
        std: Their standard deviations.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        """float32 -1..1, ``(B, C, H, W)``, to features ``(B, F)``."""
        from torchvision.transforms.v2.functional import resize

        rgb = (pictures.expand(-1, 3, -1, -1) + 1) / 2
        features: Tensor = self.network((resize(rgb, list(self.size), antialias=True) - self.mean) / self.std)
        return features


def wrong_weights(path: str, network: str, error: Exception) -> UserError:
    """Weights that do not fit: torch's long list of names and shapes, cut to its first complaint."""
    complaints = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    first = complaints[0] if len(complaints[0]) <= 200 else complaints[0][:200] + " ..."
    return UserError(f"does not hold the weights of {network!r}", path, f"{first}\n  check the option 'network'")
