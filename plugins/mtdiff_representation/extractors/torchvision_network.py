"""Classification networks of torchvision, without their last layer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from mtdiff_core import UserError, cache_folder, did_you_mean
from mtdiff_core.files import explained, read_weights, tensor_file, user_path, write_atomically
from mtdiff_representation.extractors.weights import PublishedNetwork, Standardised, wrong_weights

CLASSES = 1000  # of ImageNet, which all of torchvision's classification weights are for


class TorchvisionNetwork(PublishedNetwork):
    """Penultimate features of any of torchvision's classification networks."""

    def load(self) -> nn.Module:
        """Build the network, load its weights and take its last layer off."""
        whole = self.classifier()
        _take_head_off(whole.network)
        return whole

    def classifier(self) -> Standardised:
        """The whole network: pictures ``(B, C, H, W)`` to scores of ImageNet's classes, ``(B, 1000)``.

        Raises:
            UserError: There is no such network, or its weights cannot be had.
        """
        name = self.options.network
        known = models.list_models(module=models)
        if name not in known:
            raise UserError(f"torchvision has no network {name!r}", "network", did_you_mean(name, known))
        path = user_path(self.options.weights) if self.options.weights else _downloaded(name)
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        network = models.get_model(name, weights=None, **extra)
        try:
            network.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise wrong_weights(str(path), name, error) from error
        expected = models.get_model_weights(name).DEFAULT.transforms()
        (side,) = expected.crop_size
        return Standardised(network.eval(), (side, side), tuple(expected.mean), tuple(expected.std))


def _take_head_off(network: nn.Module) -> None:
    """Let the last layer that gives class scores pass what it gets."""
    heads = [
        name
        for name, layer in network.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == CLASSES
    ]
    network.set_submodule(heads[-1], nn.Identity())


def _downloaded(name: str) -> Path:
    """Torchvision's own weights for a network as a safetensors file in the cache, downloaded if they are not there."""
    url = models.get_model_weights(name).DEFAULT.url
    stem = Path(url).stem  # such as resnet18-f37072fd: name, and the beginning of the file's SHA-256
    path = cache_folder() / "torchvision" / f"{stem}.safetensors"
    if path.exists():
        return path
    pickled = path.with_suffix(".pth")
    with explained(f"cannot download {url}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(pickled), hash_prefix=stem.rpartition("-")[2], progress=False)
            # The one pickle that is ever read: asked for by name in the recipe, published by torchvision and checked
            # against the checksum that torchvision itself states, limited to tensors, and gone after that.
            weights: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
        except RuntimeError as error:  # torch's word for a wrong checksum
            raise UserError(f"the download is not what torchvision published ({error})", url, "try again") from error
        finally:
            pickled.unlink(missing_ok=True)
    write_atomically(path, tensor_file({key: x.contiguous() for key, x in weights.items()}, {"url": url}))
    return path
