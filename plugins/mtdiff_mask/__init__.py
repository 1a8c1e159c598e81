"""What lies over a picture: the part of it that is visible (``masked_image``), and a class for each pixel of it."""

from __future__ import annotations

from mtdiff_core import Modality, hookimpl
from mtdiff_mask.masked_image import MaskedImage
from mtdiff_mask.segmentation import Segmentation

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """The masked image and the segmentation."""
    return {"masked_image": MaskedImage, "segmentation": Segmentation}
