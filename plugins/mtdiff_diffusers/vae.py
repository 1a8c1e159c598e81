"""The autoencoder: read, measured, and as an encoder of the space.

Letters for shapes: B batch, C H W a picture, c h w its latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtdiff_core import InvertibleEncoder
from mtdiff_diffusers.library import diffusers, read_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributions import Distribution

    from mtdiff_core import Workshop

MEASURED = 512  # pictures that latents and error are measured on
AT_ONCE = 32


def read_autoencoder(folder: str, where: str) -> nn.Module:
    """An ``AutoencoderKL`` from a local folder.

    Raises:
        UserError: It is none.
    """
    autoencoder: nn.Module = read_model(folder, diffusers().AutoencoderKL, where)
    return autoencoder


def autoencoder_of(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """An ``AutoencoderKL`` with these options and weights."""
    autoencoder: nn.Module = diffusers().AutoencoderKL.from_config(dict(config))
    autoencoder.load_state_dict(dict(weights))
    return autoencoder


@torch.no_grad()
def measured(autoencoder: nn.Module, pictures: Tensor, workshop: Workshop) -> dict[str, Tensor]:
    """What makes latents of unit RMS, and how well pictures come back from them.

    Returns:
        ``shift`` and ``scale`` of each channel, ``(c,)``, and ``error``, the RMS of what is lost of a pixel.
    """
    autoencoder = autoencoder.to(workshop.device).eval()
    advance = workshop.progress("latents of pictures", len(pictures))
    latents, lost = [], []
    for part in torch.split(pictures, AT_ONCE):
        values = part.to(workshop.device)
        latent = autoencoder.encode(values).latent_dist.mode()  # type: ignore[operator]
        lost.append((autoencoder.decode(latent).sample - values).square().mean(dim=(1, 2, 3)).cpu())  # type: ignore[operator]
        latents.append(latent.cpu())
        advance(len(part))
    autoencoder.cpu()
    every = torch.cat(latents).transpose(0, 1).flatten(1)  # (c, B h w)
    return {
        "shift": every.mean(dim=1),
        "scale": every.std(dim=1).clamp(min=1e-6),
        "error": torch.cat(lost).mean().sqrt(),
    }


class LatentEncoder(InvertibleEncoder):
    """``e = (mean of the latent - shift) / scale``; back through the autoencoder's other half.

    One-to-one only as far as the autoencoder is: what it loses of a picture is lost.

    Args:
        autoencoder: Its weights stay as they are.
        shift: Of each latent channel, ``(c,)``.
        scale: Of each latent channel, ``(c,)``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, autoencoder: nn.Module, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.requires_grad_(False).eval()
        self.register_buffer("shift", shift[:, None, None].clone())
        self.register_buffer("scale", scale[:, None, None].clone())

    def train(self, mode: bool = True) -> LatentEncoder:
        """Training changes nothing in the autoencoder."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, values: Tensor) -> Tensor:
        """Pictures ``(B, C, H, W)`` in -1..1 to ``(B, c, h, w)``."""
        with torch.no_grad():
            latent: Tensor = self.autoencoder.encode(values.to(self.shift.dtype)).latent_dist.mode()
        return ((latent - self.shift) / self.scale).to(values.dtype)

    def expected(self, distribution: Distribution) -> Tensor:
        """That of the mean picture."""
        return self.forward(distribution.mean)

    def invert(self, encoding: Tensor) -> Tensor:
        """``(B, c, h, w)`` to pictures ``(B, C, H, W)``."""
        latent = encoding.to(self.shift.dtype) * self.scale + self.shift
        picture: Tensor = self.autoencoder.decode(latent).sample
        return picture.to(encoding.dtype)
