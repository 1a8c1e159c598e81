"""The image modality. Letters for shapes: B batch, C channels (1 grey, 3 RGB), H W height and width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mtdiff_core import FieldSpec, Modality, UserError, component, option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor
    from torch.distributions import Distribution, Normal

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Shape


def log_mass_of_grey_levels(normal: Normal, values: Tensor) -> Tensor:
    """Log-probability of 8-bit grey levels, each the density integrated over its bin; of the shape of ``values``."""
    from mtdiff_core.codecs import log_mass_of_rounded

    return log_mass_of_rounded(normal, values, -1, 1, 256)


@component
class Image(Modality):
    """A picture, grey or colour: it lies in the space as it is, and can be the anchor."""

    one_to_one: ClassVar[bool] = True
    example: ClassVar[str] = "photo.png"
    table_kind: ClassVar[str] = "pictures"

    flip: bool = option(False, help="mirror training images left to right at random")
    rotate: float = option(0.0, help="turn training images at random by up to so many degrees", minimum=0, maximum=180)
    shift: float = option(0.0, help="move training images at random by up to so many pixels", minimum=0, maximum=1024)

    def check(self, spec: FieldSpec) -> None:
        """A picture is uint8 with 1 or 3 channels."""
        if spec.dtype != "uint8" or len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
            raise UserError(f"an image is uint8 of shape (1 or 3, H, W), and this field holds {spec}")

    def anchor_shape(self) -> Shape:
        """The picture's own shape ``(C, H, W)``."""
        return self.spec.shape

    def block_channels(self) -> int:
        """The picture's channels."""
        return self.spec.shape[0]

    def encoder(self, slot: Shape) -> Encoder:
        """The identity: pixels are points of the space."""
        from mtdiff_core.codecs import IdentityEncoder

        if tuple(slot) != tuple(self.spec.shape):
            raise UserError(
                f"an image of shape {self.spec.shape} does not fit a space of shape {tuple(slot)}",
                hint='give all images one size and number of channels, or use aggregator = "blocks"',
            )
        return IdentityEncoder()

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A convolutional head, for an image that is not the anchor."""
        from mtdiff_core.codecs import ConvolutionalGaussianDecoder

        return ConvolutionalGaussianDecoder(features, slot[0])

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 0..255 to float32 -1..1, ``(B, C, H, W)``."""
        return values.float() / 127.5 - 1

    def augment(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored, turned and moved, as far as the options say."""
        from mtdiff_image.augment import mirrored, moved

        if self.flip:
            values = mirrored(values, generator)
        if self.rotate or self.shift:
            values = moved(values, self.rotate, self.shift, generator)
        return values

    def natural(self, values: Tensor) -> Tensor:
        """-1..1 to float32 0..1."""
        return ((values.float() + 1) / 2).clamp(0, 1)

    def write(self, values: Tensor, folder: Path, stems: Sequence[str]) -> list[Any]:
        """PNG files; a channel past the colours is opacity."""
        from mtdiff_image.files import write_png

        pixels = (self.natural(values) * 255).round().byte()
        for picture, stem in zip(pixels, stems, strict=True):
            write_png(folder / f"{stem}.png", picture)
        return [f"{folder.name}/{stem}.png" for stem in stems]

    def table_options(self) -> dict[str, Any]:
        """The pictures' size, and whether they have colours."""
        return {"size": self.spec.shape[1], "colour": self.spec.shape[0] == 3}

    def parse(self, text: str) -> Tensor:
        """A picture file, or a folder of them: resized and cropped like the training images."""
        from mtdiff_image.files import given_pictures, read_pictures

        files = given_pictures(text, "a picture (PNG, JPEG, WebP), or a folder of pictures")
        return read_pictures(files, self.spec.shape).float() / 127.5 - 1

    def log_likelihood(self, distribution: Distribution, values: Tensor) -> Tensor:
        """Of 8-bit grey levels: the density integrated over each level's bin."""
        from torch.distributions import Independent, Normal

        if not isinstance(distribution, Independent) or not isinstance(distribution.base_dist, Normal):
            raise TypeError(f"pictures are decoded as independent normal entries, not as {distribution}")
        return log_mass_of_grey_levels(distribution.base_dist, values).sum(dim=(1, 2, 3))

    def render(self, values: Tensor) -> Tensor:
        """RGB pictures, uint8 ``(B, 3, H, W)``."""
        pixels = (self.natural(values) * 255).round().byte()
        return pixels.expand(-1, 3, -1, -1)
