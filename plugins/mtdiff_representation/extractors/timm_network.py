"""Networks of timm: DINOv2, the picture towers of CLIP, and a thousand more. Needs the extra ``mtdiff[timm]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mtdiff_core import UserError, did_you_mean
from mtdiff_core.files import explained, read_weights, user_path
from mtdiff_representation.extractors.weights import PublishedNetwork, Standardised, wrong_weights


class TimmNetwork(PublishedNetwork):
    """Pooled features of a network of timm's."""

    def load(self) -> nn.Module:
        """Build the network, load its weights and take its classifier off."""
        timm = _import_timm()
        name = self.options.network
        if not timm.is_model(name):
            raise UserError(f"timm has no network {name!r}", "network", did_you_mean(name, timm.list_models()))
        path = user_path(self.options.weights) if self.options.weights else _downloaded(timm, name)
        try:
            # The weights are handed over, so that timm reads no file of its own choice; with the published number of
            # classes it insists on every one of them.
            overlay = {"state_dict": read_weights(path)}
            network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        except (RuntimeError, KeyError) as error:
            raise wrong_weights(str(path), name, error) from error
        network.reset_classifier(0)
        expected = timm.data.resolve_model_data_config(network)
        return Standardised(network.eval(), expected["input_size"][1:], expected["mean"], expected["std"])


def _import_timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("needs timm, which is not installed", "extractor", "pip install 'mtdiff[timm]'") from error
    return timm


def _downloaded(timm: Any, name: str) -> Path:
    """The published safetensors file, from Hugging Face's own cache or its hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    published = timm.get_pretrained_cfg(name)
    open_clip = "open_clip" in (published.hf_hub_filename or "")
    file = "open_clip_model.safetensors" if open_clip else "model.safetensors"
    try:
        with explained("cannot download", Path(f"{published.hf_hub_id}/{file}")):
            return Path(hf_hub_download(published.hf_hub_id, file))
    except HfHubHTTPError as error:
        raise UserError(
            f"cannot download {file} ({error})", str(published.hf_hub_id), "give a file as weights"
        ) from error
