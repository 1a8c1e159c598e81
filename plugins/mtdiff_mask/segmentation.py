"""The segmentation. Letters for shapes: B batch, K classes, H W height and width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mtdiff_core import FieldSpec, Modality, UserError, component, option
from mtdiff_mask.palette import VOID, Colour, hex_colour, voc_colour

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Shape

MAX_CLASSES = 256  # what an indexed PNG can hold


@component
class Segmentation(Modality):
    """A class for each pixel, written into the space as a colour-like code and read by a convolutional head.

    Model values are int64 ``(B, H, W)``: classes 0 to K - 1, and ``ignore``.
    """

    example: ClassVar[str] = "map.png"
    table_kind: ClassVar[str] = "maps"

    palette: tuple[str, ...] = option((), help="a colour '#rrggbb' for each class; [] for PASCAL VOC's")
    ignore: int = option(
        -1, help="value of unlabelled pixels, which count in no loss (often 255); -1: there are none", minimum=-1,
        maximum=MAX_CLASSES - 1,
    )  # fmt: skip
    code_channels: int = option(3, help="channels of a block of its own", minimum=1, maximum=256)
    code_seed: int = option(0, help="names the set of class codes", minimum=0)
    hidden: int = option(64, help="width of the head's hidden layer", minimum=1, maximum=65536)
    flip: bool = option(False, help="mirror training maps left to right, together with other modalities that flip")

    def __attrs_post_init__(self) -> None:
        for colour in self.palette:
            try:
                hex_colour(colour)
            except ValueError as error:
                raise ValueError(f"palette {error}") from error

    def check(self, spec: FieldSpec) -> None:
        """A class map is integers of shape (H, W) or (1, H, W), out of at least two classes."""
        is_map = len(spec.shape) == 2 or (len(spec.shape) == 3 and spec.shape[0] == 1)
        if not is_map or spec.dtype not in ("uint8", "int64") or not 2 <= len(spec.classes) <= MAX_CLASSES:
            raise UserError(
                f"a segmentation is uint8 or int64 of shape (H, W) with 2 to {MAX_CLASSES} classes, "
                f"and this field holds {spec}"
            )
        if self.palette and len(self.palette) != len(spec.classes):
            raise UserError(f"palette has {len(self.palette)} colours, and the data {len(spec.classes)} classes")

    @property
    def colours(self) -> tuple[Colour, ...]:
        """The colour of each class, red, green and blue from 0 to 255."""
        if self.palette:
            return tuple(hex_colour(colour) for colour in self.palette)
        return tuple(voc_colour(index) for index in range(len(self.spec.classes)))

    def block_channels(self) -> int:
        """As many as the option ``code_channels`` says."""
        return self.code_channels

    def encoder(self, slot: Shape) -> Encoder:
        """Fixed codes, one for each class, at each pixel."""
        from mtdiff_mask.segmentation_codec import ClassMapEncoder, class_codes

        if tuple(slot[1:]) != tuple(self.spec.shape[-2:]):
            raise UserError(
                f"a segmentation of shape {self.spec.shape} does not fit a space of height and width {tuple(slot[1:])}",
                hint="give class maps the size of the images",
            )
        return ClassMapEncoder(class_codes(len(self.spec.classes), slot[0], self.code_seed), self.ignore)

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A convolutional head with a matched filter for the codes."""
        from mtdiff_mask.segmentation_codec import ClassMapHead, class_codes

        codes = class_codes(len(self.spec.classes), slot[0], self.code_seed)
        return ClassMapHead(features.map[0], self.hidden, codes, self.ignore)

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Classes ``(B, H, W)`` or ``(B, 1, H, W)`` to int64 ``(B, H, W)``."""
        classes = values.long().reshape(-1, *self.spec.shape[-2:])
        self._check_classes(classes)
        return classes

    def augment(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored, if the option says so."""
        from mtdiff_image.augment import mirrored

        return mirrored(values[:, None], generator)[:, 0] if self.flip else values

    def natural(self, values: Tensor) -> Tensor:
        """Classes, int64 ``(B, H, W)``."""
        return values

    def write(self, values: Tensor, folder: Path, stems: Sequence[str]) -> list[Any]:
        """Indexed PNG files in the palette; what is unlabelled has VOC's colours past the classes."""
        from mtdiff_core.files import explained
        from mtdiff_mask.files import write_indexed_png

        past = tuple(voc_colour(index) for index in range(len(self.colours), MAX_CLASSES))
        with explained("cannot make the folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
        for classes, stem in zip(self.natural(values), stems, strict=True):
            write_indexed_png(folder / f"{stem}.png", classes, [*self.colours, *past])
        return [f"{folder.name}/{stem}.png" for stem in stems]

    def table_options(self) -> dict[str, Any]:
        """The maps' size, and what their classes are called."""
        return {"size": self.spec.shape[-2], "map_classes": list(self.spec.classes)}

    def parse(self, text: str) -> Tensor:
        """An indexed or grey PNG of classes, or a folder of them: resized and cropped like images, unmixed."""
        import torch

        from mtdiff_image.files import fit, given_pictures
        from mtdiff_mask.files import CLASS_MAP, read_class_map

        maps = []
        for file in given_pictures(text, CLASS_MAP):
            classes = read_class_map(file)  # (h, w)
            self._check_classes(classes, str(file))
            maps.append(fit(classes[None], *self.spec.shape[-2:], nearest=True))
        return torch.cat(maps)

    def render(self, values: Tensor) -> Tensor:
        """RGB pictures, uint8 ``(B, 3, H, W)``, in the palette; unlabelled pixels in VOC's colour of void."""
        import torch

        colours = [*self.colours, voc_colour(VOID)]
        table = torch.tensor(colours, dtype=torch.uint8)  # (K + 1, 3)
        index = torch.where(values == self.ignore, len(colours) - 1, values)
        return table[index].movedim(-1, 1)

    def _check_classes(self, values: Tensor, where: str = "") -> None:
        """Raise ``UserError`` for a value that is neither a class nor ``ignore``."""
        classes = len(self.spec.classes)
        outside = values[((values < 0) | (values >= classes)) & (values != self.ignore)]
        if len(outside):
            allowed = f"0 to {classes - 1}" + (f" and {self.ignore} (ignored)" if self.ignore >= 0 else "")
            raise UserError(
                f"class {int(outside[0])} is outside the data's classes, {allowed}",
                where,
                "if it marks unlabelled pixels, set ignore to it",
            )
