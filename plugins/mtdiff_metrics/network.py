"""A small network that tells classes of pictures and of their pixels, and how it is trained.

Letters for shapes: N pictures, B batch, F features, C channels, K classes, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtdiff_core.randomness import global_stream

if TYPE_CHECKING:
    from mtdiff_core import Workshop

FEATURES = 64
STEPS, MAP_STEPS, BATCH = 600, 300, 64  # where there are maps, a step teaches more and takes longer
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING = 3e-3, 1e-2, 0.05
# Where there are maps they teach the most, and what a picture is of follows from them.
LABEL_SHARE = 0.3
WIDTHS = (16, 48, 96)  # channels at the whole, half and quarter resolution
PIXELS = 32  # larger pictures are read with a stride, so that they cost about as much as those of this size
# What pictures are distorted by, largest to either side: radians, shear, scale, share of half the side.
TURN, SHEAR, SCALE, SHIFT = 0.25, 0.2, 0.15, 0.125


class PictureNetwork(nn.Module):
    """A small U-Net whose features say what a picture is of, and whose map says what each pixel is.

    Args:
        channels: Of the pictures.
        size: Their height and width.
        classes: Number of classes of each label.
        map_classes: Number of classes of each map.
    """

    def __init__(self, channels: int, size: Sequence[int], classes: Sequence[int], map_classes: Sequence[int]) -> None:
        super().__init__()
        full, middle, coarse = WIDTHS
        stride = max(1, round(min(size) / PIXELS))
        self.full = _layer(channels, full, stride)
        self.middle = nn.Sequential(_layer(full, middle, 2), _layer(middle, middle))
        self.coarse = nn.Sequential(_layer(middle, coarse, 2), _layer(coarse, coarse))
        self.features = nn.Sequential(nn.Dropout(0.3), nn.Linear(5 * coarse, FEATURES), nn.ReLU())
        self.labels = nn.ModuleList(nn.Linear(FEATURES, count) for count in classes)
        self.maps = nn.ModuleList(nn.Conv2d(full, count, 1) for count in map_classes)
        if map_classes:
            self.up_middle, self.up_full = _layer(coarse + middle, middle), _layer(middle + full, full)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Pictures ``(B, C, H, W)`` in 0..1 to features ``(B, F)``, logits ``(B, K)`` and of maps ``(B, K, H, W)``."""
        full = self.full(2 * pictures - 1)
        middle = self.middle(full)
        coarse = self.coarse(middle)
        # What is where in the picture, and whether something is anywhere.
        pooled = torch.cat([functional.adaptive_avg_pool2d(coarse, 2).flatten(1), coarse.amax(dim=(2, 3))], dim=1)
        features = self.features(pooled)
        labels = [head(features) for head in self.labels]
        if not self.maps:
            return features, labels, []
        up = self.up_middle(torch.cat([_resized(coarse, middle), middle], dim=1))
        up = self.up_full(torch.cat([_resized(up, full), full], dim=1))
        return features, labels, [_resized(head(up), pictures, "bilinear") for head in self.maps]


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    kernel = 3 if stride < 3 else 2 * (stride // 2) + 1
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _resized(values: Tensor, like: Tensor, mode: str = "nearest") -> Tensor:
    """Values of any height and width, with those of ``like``."""
    size = like.shape[-2:]
    return values if values.shape[-2:] == size else functional.interpolate(values, size=size, mode=mode)


def train(
    network: PictureNetwork,
    pixels: Tensor,
    labels: Sequence[Tensor],
    maps: Sequence[Tensor],
    title: str,
    workshop: Workshop,
) -> None:
    """Train a network in place on distorted pictures; equal arguments give equal weights on the same hardware.

    The seed is always the same, whatever a recipe's: figures of runs that differ in theirs are to be comparable.

    Args:
        network: The network.
        pixels: Pictures, uint8 0..255, ``(N, C, H, W)``.
        labels: For each label its classes, int64 ``(N,)``; -1 counts in no loss.
        maps: For each map its classes, int64 ``(N, H, W)``; -1 counts in no loss.
        title: What is shown while it is trained.
        workshop: Device and progress.
    """
    device = workshop.device
    steps = MAP_STEPS if maps else STEPS
    with global_stream(0, "picture network", "training"):
        network.to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        advance = workshop.progress(title, steps)
        for _ in range(steps):
            rows = torch.randint(len(pixels), (min(BATCH, len(pixels)),))
            pictures = pixels[rows].to(device).float() / 255
            pictures, turned = distorted(pictures, [x[rows].to(device) for x in maps])
            loss = _loss(network, pictures, [x[rows].to(device) for x in labels], turned)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            advance(1)
    network.eval()


def _loss(network: PictureNetwork, pictures: Tensor, labels: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    _, found_labels, found_maps = network(pictures)
    weight = LABEL_SHARE if maps else 1.0
    terms = [weight * _cross_entropy(logits, x, SMOOTHING) for logits, x in zip(found_labels, labels, strict=True)]
    terms += [_cross_entropy(logits, x, 0.0) for logits, x in zip(found_maps, maps, strict=True)]
    return torch.stack(terms).sum()


def _cross_entropy(logits: Tensor, classes: Tensor, smoothing: float) -> Tensor:
    """The mean over what is known; 0 where nothing is."""
    total = functional.cross_entropy(logits, classes, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return total / (classes >= 0).sum().clamp(min=1)


def distorted(pictures: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Pictures ``(B, C, H, W)`` and their maps ``(B, H, W)``, turned, sheared, scaled and shifted a little alike.

    Draws from torch's global generator. Borders are continued outwards.
    """
    draw = 2 * torch.rand(5, len(pictures)) - 1
    angle, shear, scale, shift = TURN * draw[0], SHEAR * draw[1], 1 + SCALE * draw[2], SHIFT * draw[3:]
    rows = [
        torch.stack([angle.cos() * scale, shear - angle.sin() * scale, shift[0]]),
        torch.stack([angle.sin() * scale, angle.cos() * scale, shift[1]]),
    ]
    affine = torch.stack(rows).permute(2, 0, 1).to(pictures)  # (B, 2, 3)
    grid = functional.affine_grid(affine, list(pictures.shape), align_corners=False)
    # Padded with the border, and never outside of 0..1: black is not what lies beyond a picture.
    moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return moved, [_moved_map(x, grid) for x in maps]


def _moved_map(classes: Tensor, grid: Tensor) -> Tensor:
    values = classes[:, None].to(grid.dtype)
    moved = functional.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved[:, 0].round().long()
