"""Pictures whose points in the space are latents. Letters for shapes: C H W a picture, c h w its latent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mtdiff_core import UserError, component, option
from mtdiff_diffusers.library import diffusers, read_config
from mtdiff_image.modality import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.distributions import Distribution

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Samples, Shape, Workshop

VAE = "vae"  # where the option stands, and what begins the names of the autoencoder's weights


@component
class LatentImage(Image):
    """A picture in the latent space of a ``diffusers.AutoencoderKL`` (Rombach et al. 2022, arXiv 2112.10752).

    The autoencoder is kept with the run, so that a trained model needs its folder no more. It is not trained.
    """

    vae: str = option("", help="local folder that AutoencoderKL.save_pretrained wrote")

    def fit(self, samples: Samples, field: str, workshop: Workshop) -> Mapping[str, Tensor]:
        """Read the autoencoder, and measure its latents and its error on pictures of the training split."""
        import torch

        from mtdiff_diffusers.vae import measured, read_autoencoder

        if not self.vae:
            raise UserError("is needed", VAE, "a local folder that AutoencoderKL.save_pretrained wrote")
        config = read_config(self.vae, "AutoencoderKL", VAE)
        self._latent_shape(config)
        autoencoder = read_autoencoder(self.vae, VAE)
        text = json.dumps(config).encode()
        return {
            "config": torch.frombuffer(bytearray(text), dtype=torch.uint8),
            **measured(autoencoder, self._pictures(samples, field), workshop),
            **{f"{VAE}.{name}": x.detach().clone() for name, x in autoencoder.state_dict().items()},
        }

    def _pictures(self, samples: Samples, field: str) -> Tensor:
        """Some training pictures as model values ``(N, C, H, W)``."""
        import torch

        from mtdiff_diffusers.vae import MEASURED

        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))  # they may lie class by class
        present = (sample[field] for sample in map(samples.__getitem__, order.tolist()) if field in sample)
        rows = [row for row, _ in zip(present, range(MEASURED), strict=False)]
        if len(rows) < 2:
            raise UserError(f"{len(rows)} pictures are too few to measure latents on")
        return self.prepare(torch.stack(rows), torch.Generator())

    def anchor_shape(self) -> Shape:
        """The latent's shape ``(c, h, w)``."""
        return self._latent_shape(json.loads(bytes(self.state["config"].tolist())))

    def block_channels(self) -> int:
        """The latent's channels."""
        return self.anchor_shape()[0]

    def encoder(self, slot: Shape) -> Encoder:
        """The autoencoder's mean, of unit RMS."""
        from mtdiff_diffusers.vae import LatentEncoder, autoencoder_of

        if tuple(slot) != self.anchor_shape():
            raise UserError(
                f"latents of shape {self.anchor_shape()} do not fit a space of shape {tuple(slot)}",
                hint='a latent-image can be the anchor, or stand beside another of its size with aggregator = "blocks"',
            )
        diffusers()
        weights = {name.removeprefix(f"{VAE}."): x for name, x in self.state.items() if name.startswith(f"{VAE}.")}
        config = json.loads(bytes(self.state["config"].tolist()))
        return LatentEncoder(autoencoder_of(config, weights), self.state["shift"], self.state["scale"])

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """There is none."""
        raise UserError("a latent-image can only be the anchor", hint='take type "image" for other pictures')

    def log_likelihood(self, distribution: Distribution, values: Tensor) -> Tensor:
        """As of other pictures, of a normal distribution that is wider by the autoencoder's own error."""
        from torch.distributions import Independent, Normal

        if not isinstance(distribution, Independent) or not isinstance(distribution.base_dist, Normal):
            raise TypeError(f"pictures are decoded as independent normal entries, not as {distribution}")
        normal = distribution.base_dist
        wider = (normal.scale.square() + float(self.state["error"]) ** 2).sqrt()
        return Image.log_likelihood(self, Independent(Normal(normal.loc, wider), 3), values)

    def _latent_shape(self, config: Mapping[str, Any]) -> Shape:
        """Shape of the latents of this field's pictures."""
        channels, height, width = self.spec.shape
        shrink = 2 ** (len(config["block_out_channels"]) - 1)
        if channels != config["in_channels"]:
            what = f"the autoencoder reads {config['in_channels']} channels, and these pictures have {channels}"
            raise UserError(what, VAE)
        if height % shrink or width % shrink:
            raise UserError(f"the autoencoder needs a size that is a multiple of {shrink}, not {height}x{width}", VAE)
        return config["latent_channels"], height // shrink, width // shrink
