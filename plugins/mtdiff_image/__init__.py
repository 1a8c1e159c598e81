"""The image, and data sets of images: ``digits`` (shipped) and ``image-folder`` (your own)."""

from __future__ import annotations

from mtdiff_core import DatasetSource, Modality, hookimpl
from mtdiff_image.digits import Digits
from mtdiff_image.folder import ImageFolder
from mtdiff_image.modality import Image

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """The image."""
    return {"image": Image}


@hookimpl
def mtdiff_datasets() -> dict[str, type[DatasetSource]]:
    """Shipped digits, and folders of pictures."""
    return {"digits": Digits, "image-folder": ImageFolder}
