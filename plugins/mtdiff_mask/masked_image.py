"""The masked image. Letters for shapes: B batch, C channels of the picture, H W height and width."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from mtdiff_core import UserError, component, option
from mtdiff_core.files import user_path
from mtdiff_image.modality import Image

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributions import Distribution

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Shape
    from mtdiff_mask.masked_codec import MaskedGaussian

KINDS = ("patches", "half", "strokes", "complete")
SIDES = ("left", "right", "top", "bottom")
EXPECTED = f"""expected PICTURE:MASK, where PICTURE is a file or a folder, and MASK one of
    {", ".join(KINDS)}: drawn at random
    {", ".join(SIDES)}: that half is hidden
    a number from 0 to 1: the share of patches that is hidden
    a picture file: white where PICTURE is visible"""


@component
class MaskedImage(Image):
    """The visible part of a picture, and where it is: a mask is drawn anew whenever a picture is seen.

    Model values are float32 ``(B, C + 1, H, W)``: pixels -1..1, 0 where hidden, then the mask, 1 where visible. With
    the picture's own ``flip``, ``rotate`` and ``shift`` it is changed for training like the picture.
    """

    one_to_one: ClassVar[bool] = False
    example: ClassVar[str] = "photo.png:half"

    kinds: tuple[str, ...] = option(
        KINDS, choices=KINDS, help="kinds of masks: random patches; a half; brush strokes; everything hidden"
    )
    kind_weights: tuple[float, ...] = option((), help="how often each of kinds is drawn; [] for all alike", minimum=0)
    patch: int = option(4, help="side of a patch in pixels", minimum=1, maximum=4096)
    ratio_min: float = option(0.1, help="smallest share of patches that is hidden", minimum=0, maximum=1)
    ratio_max: float = option(1.0, help="largest share of patches that is hidden", minimum=0, maximum=1)

    def __attrs_post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("kinds must name at least one of " + ", ".join(KINDS))
        if self.kind_weights and len(self.kind_weights) != len(self.kinds):
            raise ValueError(f"kind_weights needs one number for each of kinds, {len(self.kinds)} in all")
        if self.kind_weights and not sum(self.kind_weights) > 0:
            raise ValueError("kind_weights must not all be 0")
        if self.ratio_min > self.ratio_max:
            raise ValueError(f"ratio_min {self.ratio_min:g} is above ratio_max {self.ratio_max:g}")

    def encoder(self, slot: Shape) -> Encoder:
        """The visible part, in the picture's own channels."""
        from mtdiff_mask.masked_codec import VisiblePart

        super().encoder(slot)  # refuses a slot of another shape than the picture's
        return VisiblePart()

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A convolutional head for mask and visible pixels."""
        from mtdiff_mask.masked_codec import MaskedImageHead

        return MaskedImageHead(features, self.spec.shape[0])

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 ``(B, C, H, W)`` to model values, with new masks."""
        return hide(super().prepare(values, generator), self._any_masks(len(values), generator))

    def augment(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Changed like the picture."""
        pixels, mask = split(super().augment(values, generator))
        # Turning and moving interpolates. A pixel that a hidden one went into counts as hidden.
        return hide(pixels, mask > 1 - 1e-5)

    def natural(self, values: Tensor) -> Tensor:
        """float32 ``(B, C + 1, H, W)``: pixels 0..1, 0 where hidden, then the mask, 0 or 1."""
        pixels, mask = split(values)
        return hide(super().natural(pixels), mask > 0.5)

    def parse(self, text: str) -> Tensor:
        """``PICTURE:MASK``, such as ``photo.png:half``, ``folder:0.5`` or ``photo.png:mask.png``.

        PICTURE is a file, or a folder of them. MASK is a kind of mask, the side whose half is hidden, the share of
        patches that is hidden, or a picture file that is white where PICTURE is visible, of the size of either PICTURE
        or the model's own. The same text gives the same masks.
        """
        pictures, mask = _split_text(text)
        pixels = super().parse(pictures)  # (n, C, H, W)
        return hide(pixels, self._named_masks(mask, len(pixels), user_path(pictures)))

    def log_likelihood(self, distribution: Distribution, values: Tensor) -> Tensor:
        """Of the mask, and of the 8-bit grey levels that are visible."""
        return cast("MaskedGaussian", distribution).log_prob_of_grey_levels(values)

    def render(self, values: Tensor) -> Tensor:
        """RGB pictures, uint8 ``(B, 3, H, W)``, with a checkerboard where nothing is visible."""
        import torch

        pixels, mask = split(self.natural(values))
        shown = (pixels * 255).round().byte().expand(-1, 3, -1, -1)
        height, width = values.shape[-2:]
        cell = max(2, height // 16)
        odd = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2  # (H, W)
        return torch.where(mask > 0.5, shown, (96 + 48 * odd).byte())

    def _any_masks(self, count: int, generator: torch.Generator) -> Tensor:
        """Masks of kinds drawn as often as the options say, bool ``(count, 1, H, W)``."""
        import torch

        weights = torch.tensor(self.kind_weights or (1.0,) * len(self.kinds))
        kinds = torch.multinomial(weights, count, replacement=True, generator=generator)
        masks = torch.empty(count, 1, *self.spec.shape[1:], dtype=torch.bool)
        for number, kind in enumerate(self.kinds):
            chosen = kinds == number
            masks[chosen] = self._masks(kind, int(chosen.sum()), generator)
        return masks

    def _masks(self, kind: str, count: int, generator: torch.Generator) -> Tensor:
        """Masks of one kind, bool ``(count, 1, H, W)``."""
        import torch

        from mtdiff_mask import masks

        _, height, width = self.spec.shape
        if kind == "patches":
            shares = self.ratio_min + (self.ratio_max - self.ratio_min) * torch.rand(count, generator=generator)
            return masks.patches(shares, (height, width), self.patch, generator)
        if kind == "half":
            return masks.halves(count, (height, width), generator)
        if kind == "strokes":
            return masks.strokes(count, (height, width), generator)
        return torch.zeros(count, 1, height, width, dtype=torch.bool)

    def _named_masks(self, name: str, count: int, pictures: Path) -> Tensor:
        """Masks as a user names them, bool, ``(count, 1, H, W)`` or one for all."""
        import torch

        from mtdiff_mask import masks
        from mtdiff_mask.files import read_mask

        _, height, width = self.spec.shape
        random = torch.Generator().manual_seed(0)
        if name in KINDS:
            return self._masks(name, count, random)
        if name in SIDES:
            return masks.half(name, (height, width))
        share = _number(name)
        if share is None:
            return read_mask(user_path(name), (height, width), pictures)
        if not 0 <= share <= 1:
            raise UserError(f"the share of patches that is hidden is {name}", hint="a number from 0 to 1")
        return masks.patches(torch.full((count,), share), (height, width), self.patch, random)


def hide(pixels: Tensor, visible: Tensor) -> Tensor:
    """Pixels ``(B, C, H, W)`` and a bool mask, ``(B, 1, H, W)`` or one for all, to ``(B, C + 1, H, W)``."""
    import torch

    mask = visible.to(pixels.dtype).expand(len(pixels), -1, -1, -1)
    return torch.cat([torch.where(visible, pixels, 0), mask], dim=1)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(B, C + 1, H, W)`` to pixels ``(B, C, H, W)`` and mask ``(B, 1, H, W)``."""
    return values[:, :-1], values[:, -1:]


def _split_text(text: str) -> tuple[str, str]:
    """``PICTURE:MASK`` at its last colon, if a mask follows; a path may hold colons of its own."""
    from mtdiff_image.files import given_path

    pictures, _, mask = text.rpartition(":")
    if not pictures:
        raise UserError(f"{text!r} names no mask", hint=EXPECTED)
    file = given_path(mask)
    if mask in (*KINDS, *SIDES) or _number(mask) is not None or (file is not None and file.is_file()):
        return pictures, mask
    raise UserError(f"{mask!r} is no mask, and no file that holds one", hint=EXPECTED)


def _number(text: str) -> float | None:
    """The text as a number, None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None
