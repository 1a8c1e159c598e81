"""A scene as pictures. Letters for shapes: S pixels a side, F fine pixels a side, K fine pixels to a pixel's side."""

from __future__ import annotations

import attrs
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional

from mtdiff_datasets.scenes.patch import WORLD, Patch, mixed
from mtdiff_datasets.scenes.world import CATEGORIES, Scene

FINE = 6  # every pixel is painted as 6 x 6 and averaged
NIGHT_ZENITH, NIGHT_HORIZON = "#0b1036", "#3c4a8c"
MOONLIGHT = (0.29, 0.37, 0.56)  # what is left of red, green and blue at night
FADED = 0.4  # share of its colour that a thing loses at night


@attrs.frozen(kw_only=True)
class Painting:
    """One scene, seen three ways.

    Attributes:
        day: uint8 ``(3, S, S)``.
        night: The same under the moon, with its lamps lit, uint8 ``(3, S, S)``.
        segmentation: In each pixel the category that covers most of it, as an index, uint8 ``(S, S)``.
    """

    day: Tensor
    night: Tensor
    segmentation: Tensor


def paint(scene: Scene, size: int) -> Painting:
    """Paint a scene ``size`` pixels wide and high."""
    fine = size * FINE
    day = _painted(scene, _sky(scene, fine, scene.palette.zenith, scene.palette.horizon, "#fffbe0", 0.75), "day")
    lights = _painted(scene, Image.new("RGB", (fine, fine)), "light")
    categories = _categories(scene, fine)
    glow = mixed(NIGHT_HORIZON, "#9fb0e0", 0.5)
    dusk = mixed(NIGHT_HORIZON, scene.palette.horizon, 0.14)
    dark = torch.where(
        categories == 0, _floats(_sky(scene, fine, NIGHT_ZENITH, dusk, glow, 0.55)), _moonlit(_floats(day))
    )
    night = _lit(_averaged(dark), _averaged(_floats(lights)))
    return Painting(
        day=_bytes(_averaged(_floats(day))), night=_bytes(night), segmentation=majority(categories, len(CATEGORIES))
    )


def _painted(scene: Scene, canvas: Image.Image, what: str) -> Image.Image:
    """The patches' colours by day, or their lights at night, over a canvas."""
    draw = ImageDraw.Draw(canvas)
    for patch in scene.patches:
        if patch.day or what == "light":
            draw.polygon(_on_canvas(patch, canvas.width), fill=getattr(patch, what))
    return canvas


def _categories(scene: Scene, fine: int) -> Tensor:
    """The category of every fine pixel, uint8 ``(F, F)``."""
    canvas = Image.new("L", (fine, fine))  # 0 is sky
    draw = ImageDraw.Draw(canvas)
    for patch in scene.patches:
        if patch.category:
            draw.polygon(_on_canvas(patch, fine), fill=CATEGORIES.index(patch.category))
    return torch.as_tensor(functional.pil_to_tensor(canvas))[0]


def _on_canvas(patch: Patch, fine: int) -> list[tuple[float, float]]:
    """Its corners in fine pixels, whose centres Pillow takes for whole numbers."""
    return [(x * fine / WORLD - 0.5, y * fine / WORLD - 0.5) for x, y in patch.outline]


def majority(categories: Tensor, count: int) -> Tensor:
    """In every block of fine pixels the most frequent category, the lower one of two: ``(F, F)`` to ``(S, S)``."""
    size = len(categories) // FINE
    pixel = torch.arange(size * size).view(size, 1, size, 1)
    blocks = categories.view(size, FINE, size, FINE)  # (S, K, S, K)
    counts = torch.bincount((pixel * count + blocks).flatten(), minlength=size * size * count)
    return counts.view(size, size, count).argmax(dim=-1).byte()


def _sky(scene: Scene, fine: int, zenith: str, horizon: str, glow: str, strength: float) -> Image.Image:
    """From the zenith down to the horizon, brighter around the sun."""
    # Sky is smooth: computed for every pixel, not every fine one.
    size = fine // FINE
    place = (torch.arange(size) + 0.5) * WORLD / size
    down = (place / 21).clamp(max=1)[:, None, None]  # (S, 1, 1)
    top, low, halo = (torch.tensor(ImageColor.getrgb(colour)).float() for colour in (zenith, horizon, glow))
    sky = torch.lerp(top, low, down**1.3)  # (S, 1, 3)
    distance = ((place[None, :] - scene.sun[0]) ** 2 + (place[:, None] - scene.sun[1]) ** 2).sqrt()
    near = strength * torch.exp(-((distance / 6.5) ** 1.4))[..., None]  # (S, S, 1)
    picture: Image.Image = functional.to_pil_image(torch.lerp(sky, halo, near).round().byte().permute(2, 0, 1))
    return picture.resize((fine, fine), Image.Resampling.BILINEAR)


def _moonlit(colours: Tensor) -> Tensor:
    """Colours ``(3, F, F)`` by the light of the moon."""
    grey = functional.rgb_to_grayscale(colours)
    return torch.lerp(colours, grey, FADED) * torch.tensor(MOONLIGHT)[:, None, None]


def _lit(dark: Tensor, lights: Tensor) -> Tensor:
    """Lights ``(3, S, S)`` and the glow around them over what is dark; as on film, nothing gets brighter than white."""
    sigma = 1.5 * lights.shape[-1] / WORLD
    glow: Tensor = functional.gaussian_blur(lights, kernel_size=[2 * round(2 * sigma) + 1] * 2, sigma=[sigma, sigma])
    return 255 - (255 - dark) * (1 - lights / 255) * (1 - 0.5 * glow / 255)


def _averaged(fine: Tensor) -> Tensor:
    """``(3, F, F)`` to ``(3, S, S)``."""
    return torch.nn.functional.avg_pool2d(fine, FINE)


def _floats(picture: Image.Image) -> Tensor:
    return torch.as_tensor(functional.pil_to_tensor(picture)).float()


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).byte()
