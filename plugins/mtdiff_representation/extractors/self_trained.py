"""A small network trained without labels on the recipe's own pictures. No download, no outside data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtdiff_core import UserError
from mtdiff_core.randomness import global_stream
from mtdiff_representation.cache import cached
from mtdiff_representation.extractors.extractor import NetworkExtractor
from mtdiff_representation.vicreg import train

if TYPE_CHECKING:
    from mtdiff_core import Samples, Workshop

PREFIX = "network."


class SelfTrained(NetworkExtractor):
    """VICReg on the training split; the weights are kept with the model."""

    def learn(self, samples: Samples, field: str, workshop: Workshop) -> dict[str, Tensor]:
        """The trained network's weights, from the cache if this very data was seen before."""
        options = self.options
        key: dict[str, str | int] = {
            "what": "network",
            "data": workshop.content_hash(samples, field),
            "seed": workshop.seed,
            "steps": options.steps,
            "width": options.width,
            "resolution": options.resolution,
            "flip": options.flip,
            "device": workshop.device.type,
        }

        def compute() -> dict[str, Tensor]:
            pictures = shrunk_pictures(samples, field, options.resolution)
            with global_stream(workshop.seed, "representation", "weights"):
                network = SmallNetwork(pictures.shape[1], options.width, stem_stride(pictures.shape[-2:]))
            train(network, pictures, options.steps, options.flip, workshop)
            return {PREFIX + name: tensor.cpu() for name, tensor in network.state_dict().items()}

        return cached(workshop.cache, key, compute)

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The network with its weights."""
        weights = {name.removeprefix(PREFIX): x for name, x in state.items() if name.startswith(PREFIX)}
        _, channels, kernel, _ = weights["stem.0.weight"].shape
        with torch.device("meta"):  # no weights are drawn
            network = SmallNetwork(channels, self.options.width, kernel // 2)
        network.load_state_dict(weights, assign=True)
        return nn.Sequential(Shrink(self.options.resolution), network)


def shrunk_pictures(samples: Samples, field: str, resolution: int) -> Tensor:
    """All pictures of a split in memory, no larger than the network sees them, uint8 ``(N, C, h, w)``."""
    shrink = Shrink(resolution)
    values = (samples[i].get(field) for i in range(len(samples)))
    pictures = [shrink(value[None]) for value in values if value is not None]
    if len(pictures) < 2:
        raise UserError(f"{len(pictures)} pictures are too few to learn from", f"data field {field!r}")
    return torch.cat(pictures)


class Shrink(nn.Module):
    """Larger pictures so that their shorter side has ``resolution`` pixels; smaller ones as they are."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, pictures: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, h, w)``, of the same type."""
        from torchvision.transforms.v2.functional import resize

        if min(pictures.shape[-2:]) <= self.resolution:
            return pictures
        return torch.as_tensor(resize(pictures, [self.resolution], antialias=True))


def stem_stride(size: Sequence[int]) -> int:
    """The stride after which pictures of this height and width have about 16 pixels, and so cost the same."""
    return max(1, round(min(size) / 16))


class SmallNetwork(nn.Module):
    """A residual network of three resolutions: pictures ``(B, C, H, W)`` to features ``(B, 4 width)``."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        kernel = 2 * stride + 1
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, kernel, stride, padding=stride, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(width, width, 2), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Features, averaged over all places."""
        hidden: Tensor = self.blocks(self.stem(pictures))
        return hidden.mean(dim=(2, 3))


class Block(nn.Module):
    """Two convolutions around a skip (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, F, H, W)`` to ``(B, F', H / stride, W / stride)``."""
        return functional.relu(self.skip(hidden) + self.convolutions(hidden))
