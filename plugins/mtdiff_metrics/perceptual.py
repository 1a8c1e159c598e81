"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): torchmetrics' network, with torchvision's weights from a local file."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from mtdiff_core.files import read_weights, user_path
from mtdiff_metrics.weights import load_weights

AT_ONCE = 32
Name = Literal["alex", "vgg", "squeeze"]
# By LPIPS's own name, torchvision's.
NETWORKS: dict[Name, str] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
SMALLEST = 64  # smaller pictures are enlarged to it, since the networks shrink what they see 32 times


class PerceptualDistance:
    """Distances of pictures.

    Args:
        network: One of ``NETWORKS``.
        weights: A safetensors file with torchvision's weights of it.
        device: Where it runs.

    Raises:
        UserError: The file cannot be read, or holds other weights.
    """

    def __init__(self, network: Name, weights: str, device: torch.device) -> None:
        tensors = read_weights(user_path(weights))
        # torchmetrics brings the linear layers; the network below them is not to be downloaded.
        self.network = _LPIPS(pretrained=True, net=network, pnet_rand=True)
        below = self.network.net
        named = {own: "features." + _place(own) for own in below.state_dict()}
        found = {own: tensors[theirs] for own, theirs in named.items() if theirs in tensors}
        load_weights(below, found, weights, NETWORKS[network])
        self.network = self.network.to(device).eval()
        self.device = device
        self.name = f"LPIPS on torchvision's {NETWORKS[network]}"

    @torch.no_grad()
    def __call__(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """Of pictures ``(B, 1 or 3, H, W)`` in 0..1, ``(B,)``."""
        return torch.cat(
            [
                self.network(self._prepared(a), self._prepared(b), normalize=True).flatten().float().cpu()
                for a, b in zip(torch.split(pictures, AT_ONCE), torch.split(truth, AT_ONCE), strict=True)
            ]
        )

    def _prepared(self, pictures: Tensor) -> Tensor:
        rgb = pictures.to(self.device).expand(-1, 3, -1, -1)
        smallest = min(rgb.shape[-2:])
        if smallest >= SMALLEST:
            return rgb
        scale = SMALLEST / smallest
        return torch.nn.functional.interpolate(rgb, scale_factor=scale, mode="bilinear").clamp(0, 1)


def _place(name: str) -> str:
    """``slice2.3.weight`` or ``slices.1.3.weight`` to ``3.weight``: layers keep their places of torchvision."""
    parts = name.split(".")
    return ".".join(parts[2:] if parts[0] == "slices" else parts[1:])
