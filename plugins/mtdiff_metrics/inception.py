"""Inception-v3 as an extractor, from a local file of weights: torchvision's own, or those of Frechet distances.

Published Frechet distances come from TensorFlow's network of 2015, which torch-fidelity's file holds
(``pt_inception-2015-12-05-6726825d.pth``). It differs from torchvision's in how it pools, and has 1008 classes.

Letters for shapes: B batch, F features, H W height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception_v3
from torchvision.models.inception import InceptionE

from mtdiff_core import UserError
from mtdiff_core.files import read_weights, user_path
from mtdiff_metrics.extractors import Extractor, finite
from mtdiff_metrics.weights import checksum, load_weights

FEATURES, SIZE = 2048, 299
TENSORFLOW_CLASSES, TORCHVISION_CLASSES = 1008, 1000
AT_ONCE = 32
WHAT = "Inception-v3"


class Inception(Extractor):
    """Features before the last layer, and probabilities after it.

    Args:
        weights: A safetensors file of weights.
        device: Where the network runs.

    Raises:
        UserError: The file cannot be read, or holds other weights.
    """

    def __init__(self, weights: str, device: torch.device) -> None:
        tensors = read_weights(user_path(weights))
        classes = len(tensors["fc.weight"]) if "fc.weight" in tensors else 0
        if classes not in (TENSORFLOW_CLASSES, TORCHVISION_CLASSES):
            raise UserError(
                f"does not hold the weights of {WHAT}: fc.weight is "
                + (f"for {classes} classes" if classes else "missing"),
                weights,
                f"expected torchvision's ({TORCHVISION_CLASSES} classes) or torch-fidelity's ({TENSORFLOW_CLASSES})",
            )
        self.of_tensorflow = classes == TENSORFLOW_CLASSES
        # Without transform_input it takes pictures in -1..1, which are what its own transformation would give.
        network = inception_v3(
            weights=None, num_classes=classes, aux_logits=False, transform_input=False, init_weights=False
        )
        if self.of_tensorflow:
            pool_like_tensorflow(network)
        load_weights(network, tensors, weights, WHAT)
        self.last: nn.Linear = network.fc
        network.fc = nn.Identity()
        self.network, self.device = network.to(device).eval(), device
        self.last = self.last.to(device).eval()
        self.name = f"{WHAT} of {'TensorFlow' if self.of_tensorflow else 'torchvision'}, weights {checksum(tensors)}"
        self._seen: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def features(self, pictures: Tensor) -> Tensor:
        """Features ``(B, F)``."""
        return self._look(pictures)[0]

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Probabilities of ImageNet's classes."""
        return self._look(pictures)[1]

    def _look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        if self._seen is None or self._seen[0] is not pictures:
            self._seen = (pictures, self._see(pictures))
        return self._seen[1]

    @torch.no_grad()
    def _see(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features, probabilities = [], []
        for part in torch.split(pictures, AT_ONCE):
            seen = self.network(self._prepared(part.to(self.device)))
            logits = self.last(seen)
            if self.of_tensorflow:
                logits = logits - self.last.bias  # the Inception score was defined without it
            features.append(seen.float().cpu())
            probabilities.append(logits.softmax(dim=1).float().cpu())
        return finite(torch.cat(features), "the network"), torch.cat(probabilities)

    def _prepared(self, pictures: Tensor) -> Tensor:
        """Grey or colour pictures in 0..1 as the network was trained with them."""
        rgb = pictures.expand(-1, 3, -1, -1)
        if self.of_tensorflow:
            return (resized_like_tensorflow((rgb * 255).round(), SIZE) - 128) / 128
        return 2 * functional.interpolate(rgb, size=(SIZE, SIZE), mode="bilinear", antialias=True) - 1


def resized_like_tensorflow(pictures: Tensor, size: int) -> Tensor:
    """Bilinear, with the corner of a pixel, not its middle, taken for its place, as TensorFlow 1 did."""

    def between(values: Tensor, dim: int) -> Tensor:
        length = values.shape[dim]
        place = torch.arange(size, device=values.device, dtype=torch.float64) * (length / size)
        first = place.floor().long()
        share = (place - first).to(values).view([-1 if d == dim else 1 for d in range(4)])
        after = (first + 1).clamp(max=length - 1)
        return values.index_select(dim, first).lerp(values.index_select(dim, after), share)

    return between(between(pictures, 2), 3)


def pool_like_tensorflow(network: nn.Module) -> None:
    """Averages at the border leave out what lies beyond; the last block takes maxima in place of averages."""
    network.set_submodule("Mixed_7c", _BlockWithMaxima(FEATURES))
    for block in network.children():
        branch = getattr(block, "branch_pool", None)
        if isinstance(branch, nn.Module) and not isinstance(block, _BlockWithMaxima):
            branch.register_forward_pre_hook(_without_padding)


def _without_padding(branch: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """From averages that count padding as zeros to those that leave it out."""
    (averages,) = inputs
    ones = torch.ones_like(averages[:1, :1])
    return (averages / functional.avg_pool2d(ones, 3, stride=1, padding=1),)


class _BlockWithMaxima(InceptionE):  # type: ignore[misc]
    """The last block, whose pooling branch takes maxima."""

    def _forward(self, values: Tensor) -> list[Tensor]:
        halves = self.branch3x3_1(values)
        deep = self.branch3x3dbl_2(self.branch3x3dbl_1(values))
        largest = functional.max_pool2d(values, kernel_size=3, stride=1, padding=1)
        return [
            self.branch1x1(values),
            torch.cat([self.branch3x3_2a(halves), self.branch3x3_2b(halves)], dim=1),
            torch.cat([self.branch3x3dbl_3a(deep), self.branch3x3dbl_3b(deep)], dim=1),
            self.branch_pool(largest),
        ]
