"""Networks of torchvision and timm as extractors, with weights from a local file; the representation's own loaders.

Letters for shapes: B batch, F features, K classes.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from mtdiff_metrics.extractors import Extractor
from mtdiff_metrics.weights import checksum
from mtdiff_representation.extractors.extractor import run
from mtdiff_representation.extractors.timm_network import TimmNetwork
from mtdiff_representation.extractors.torchvision_network import TorchvisionNetwork
from mtdiff_representation.modality import Representation

AT_ONCE = 32
LOADERS: dict[str, type[TorchvisionNetwork | TimmNetwork]] = {"torchvision": TorchvisionNetwork, "timm": TimmNetwork}


class Published(Extractor):
    """Features before the last layer.

    Args:
        library: One of ``LOADERS``.
        network: Its name there.
        weights: A safetensors file of its weights.
        device: Where it runs.

    Raises:
        UserError: There is no such network, or the file cannot be read or holds other weights.
    """

    def __init__(self, library: str, network: str, weights: str, device: torch.device) -> None:
        # mypy does not see the defaults that option() declares
        options = Representation(extractor=library, network=network, weights=weights)  # type: ignore[call-arg]
        self.loader = LOADERS[library](options)
        self.network, self.device = self.loader.load().to(device), device
        self.name = f"{network} of {library}, weights {checksum(self.network.state_dict())}"
        self._seen: tuple[Tensor, Tensor] | None = None

    def features(self, pictures: Tensor) -> Tensor:
        """Features ``(B, F)``."""
        if self._seen is None or self._seen[0] is not pictures:
            self._seen = (pictures, self._see(self.network, pictures))
        return self._seen[1]

    def probabilities(self, pictures: Tensor) -> Tensor | None:
        """Probabilities of ImageNet's classes, of torchvision's networks alone."""
        return None if self._classifier is None else self._see(self._classifier, pictures).softmax(dim=1)

    @cached_property
    def _classifier(self) -> nn.Module | None:
        """The whole network: what :meth:`features` has is without its last layer."""
        if not isinstance(self.loader, TorchvisionNetwork):
            return None
        return self.loader.classifier().to(self.device)

    def _see(self, network: nn.Module, pictures: Tensor) -> Tensor:
        """What a network gives for pictures in 0..1, on the host."""
        parts = (part.to(self.device) for part in torch.split(pictures, AT_ONCE))
        return torch.cat([run(network, 2 * part - 1).cpu() for part in parts])
