"""A scene as pictures. Letters for shapes: S pixels a side, F fine pixels a side, K fine pixels to a pixel's side."""

from __future__ import annotations

import attrs
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional

from mtdiff_datasets.scenes.patch import WORLD, Patch, mixed
from mtdiff_datasets.scenes.world import CATEGORIES, HORIZON, Scene

FINE = 6  # every pixel is painted as 6 x 6 and averaged
NIGHT_ZENITH, NIGHT_HORIZON = "#0b1036", "#3c4a8c"
MOONLIGHT = (0.29, 0.37, 0.56)  # what is left of red, green and blue at night
SUNSHINE, HALO = ("#fffbe0", 0.75), ("#6e7eb6", 0.55)  # colour around the sun and around the moon, and how much of it
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
    cover = covered(_categories(scene, size * FINE), len(CATEGORIES))
    open_sky = cover[..., 0] / FINE**2  # (S, S), its share of each pixel
    things = _painted(scene, size, "day")
    dusk = mixed(NIGHT_HORIZON, scene.palette.horizon, 0.14)
    day = things + open_sky * _sky(scene, size, scene.palette.zenith, scene.palette.horizon, SUNSHINE)
    dark = _moonlit(things) + open_sky * _sky(scene, size, NIGHT_ZENITH, dusk, HALO)
    return Painting(
        day=_bytes(day),
        night=_bytes(_lit(dark, _painted(scene, size, "light"))),
        segmentation=cover.argmax(dim=-1).byte(),
    )


def _painted(scene: Scene, size: int, what: str) -> Tensor:
    """The patches' colours by day, or their lights at night, over black; float32 ``(3, S, S)``, 0 to 255."""
    canvas = Image.new("RGB", (size * FINE, size * FINE))
    draw = ImageDraw.Draw(canvas)
    for patch in scene.patches:
        if patch.day or what == "light":
            draw.polygon(_on_canvas(patch, canvas.width), fill=getattr(patch, what))
    return torch.as_tensor(functional.pil_to_tensor(canvas.reduce(FINE))).float()


def _categories(scene: Scene, fine: int) -> Tensor:
    """The category of every fine pixel, uint8 ``(F, F)``."""
    canvas = Image.new("L", (fine, fine))  # 0 is sky
    draw = ImageDraw.Draw(canvas)
    for patch in scene.patches:
        if patch.day:
            draw.polygon(_on_canvas(patch, fine), fill=CATEGORIES.index(patch.category))
    return torch.as_tensor(functional.pil_to_tensor(canvas))[0]


def _on_canvas(patch: Patch, fine: int) -> list[tuple[float, float]]:
    """Its corners in fine pixels, whose centres Pillow takes for whole numbers."""
    return [(x * fine / WORLD - 0.5, y * fine / WORLD - 0.5) for x, y in patch.outline]


def covered(categories: Tensor, count: int) -> Tensor:
    """How many fine pixels of every pixel each category covers: ``(F, F)`` to ``(S, S, count)``."""
    size = len(categories) // FINE
    pixel = torch.arange(size * size).view(size, 1, size, 1)
    blocks = categories.view(size, FINE, size, FINE)  # (S, K, S, K)
    counts = torch.bincount((pixel * count + blocks).flatten(), minlength=size * size * count)
    return counts.view(size, size, count)


def _sky(scene: Scene, size: int, zenith: str, horizon: str, halo: tuple[str, float]) -> Tensor:
    """From the zenith down to the horizon, brighter around the sun; float32 ``(3, S, S)``."""
    top, low, bright = (torch.tensor(ImageColor.getrgb(colour)).view(3, 1, 1) for colour in (zenith, horizon, halo[0]))
    place = (torch.arange(size) + 0.5) * WORLD / size
    down = (place / HORIZON).clamp(max=1)[:, None] ** 1.3  # (S, 1)
    distance = torch.hypot(place - scene.sun[0], place[:, None] - scene.sun[1])  # (S, S)
    near = halo[1] * torch.exp(-((distance / 6.5) ** 1.4))
    sky = top + (low - top) * down  # (3, S, 1)
    return sky + (bright - sky) * near


def _moonlit(colours: Tensor) -> Tensor:
    """Colours ``(3, S, S)`` by the light of the moon."""
    grey = functional.rgb_to_grayscale(colours)
    return torch.lerp(colours, grey, FADED) * torch.tensor(MOONLIGHT)[:, None, None]


def _lit(dark: Tensor, lights: Tensor) -> Tensor:
    """Lights ``(3, S, S)`` and the glow around them over what is dark; as on film, nothing gets brighter than white."""
    sigma = 1.5 * lights.shape[-1] / WORLD
    glow: Tensor = functional.gaussian_blur(lights, kernel_size=[2 * round(2 * sigma) + 1] * 2, sigma=[sigma, sigma])
    return 255 - (255 - dark) * (1 - lights / 255) * (1 - 0.5 * glow / 255)


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).byte()
