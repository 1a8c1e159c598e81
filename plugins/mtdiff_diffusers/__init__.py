"""Networks of the ``diffusers`` library as backbones, and diffusion in the latent space of one of its autoencoders.

The library comes with ``pip install 'mtdiff[diffusers]'``. Nothing is downloaded: weights are read from local folders.
"""

from __future__ import annotations

from mtdiff_core import Backbone, Modality, hookimpl

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_backbones() -> dict[str, type[Backbone]]:
    """Three families of networks."""
    from mtdiff_diffusers.backbones import DiffusersConditionalUNet, DiffusersDiT, DiffusersUNet

    return {
        "diffusers-unet": DiffusersUNet,
        "diffusers-conditional-unet": DiffusersConditionalUNet,
        "diffusers-dit": DiffusersDiT,
    }


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """Pictures in a latent space."""
    from mtdiff_diffusers.latent_image import LatentImage

    return {"latent-image": LatentImage}
