"""The paired image: the second of two aligned pictures, such as a street by night beside the same street by day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core import Modality, component, hookimpl, option
from mtdiff_image.modality import Image

if TYPE_CHECKING:
    from mtdiff_core import Decoder, FeatureShapes, Shape

MTDIFF_PLUGIN_API = "1.0"


@component
class PairedImage(Image):
    """The second of two aligned pictures: an image with a head of its own that is deep enough to translate.

    It lies in the space as it is, and can be the anchor, when it is read off the space and the head is not used. With
    the other picture's own ``flip``, ``rotate`` and ``shift`` both are changed alike for training.
    """

    hidden: int = option(64, help="channels of the head's residual blocks", minimum=1, maximum=65536)
    blocks: int = option(3, help="residual blocks of the head", minimum=1, maximum=64)

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A residual convolutional head that also says, for each entry, how sure it is."""
        from mtdiff_paired_image.codec import ResidualGaussianDecoder

        return ResidualGaussianDecoder(features.map[0], self.hidden, self.blocks, slot[0])


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """The paired image."""
    return {"paired_image": PairedImage}
