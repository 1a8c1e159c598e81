"""The U-Net of ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), giving features in place of a picture.

Letters for shapes: B batch, C channels of the diffusion space, K of the context, F feature channels, E embedding, H W
height and width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtdiff_core.codecs import group_norm, zero_init
from mtdiff_core.interfaces.backbone import Context, Features

if TYPE_CHECKING:
    from mtdiff_core.backbones.unet import UNet
    from mtdiff_core.interfaces.backbone import ContextShape
    from mtdiff_core.interfaces.dataset import Shape

Resample = Literal["up", "down", "same"]

GLANCE = 4  # height and width of the coarse view of what is known


class UNetNetwork(nn.Module):
    """The network: ``forward(z, log_snr, context) -> Features``.

    Args:
        options: Widths and depths.
        space: ``(C, H, W)`` of the diffusion space.
        context: What comes besides. Encodings are stacked on ``z``; flags and a coarse view of the encodings, by which
            what they say of the whole is learnt soon, are added to the noise embedding.
    """

    def __init__(self, options: UNet, space: Shape, context: ContextShape) -> None:
        super().__init__()
        channels, height, _ = space
        widths = [options.channels * m for m in options.multipliers]
        embedding = 4 * options.channels
        self.embed = NoiseEmbedding(options.channels, embedding)
        # Starts at 0: a flag means nothing until it is learnt.
        self.embed_flags = zero_init(nn.Linear(context.flags, embedding, bias=False))
        self.embed_glance = Glance(context.channels, embedding) if context.channels else None

        def block(inputs: int, outputs: int, size: int, resample: Resample = "same") -> ConditionedSequence:
            attends = size in options.attention and resample == "same"
            layers: list[nn.Module] = [ResidualBlock(inputs, outputs, embedding, options.dropout, resample)]
            return ConditionedSequence(*layers, *([Attention(outputs, options.head_channels)] if attends else []))

        self.stem = nn.Conv2d(channels + context.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        skips, width, size = [widths[0]], widths[0], height
        for depth, target in enumerate(widths):
            if depth:
                self.down.append(block(width, width, size, "down"))
                skips.append(width)
                size //= 2
            for _ in range(options.blocks):
                self.down.append(block(width, target, size))
                skips.append(width := target)

        self.middle = ConditionedSequence(
            ResidualBlock(width, width, embedding, options.dropout),
            Attention(width, options.head_channels),
            ResidualBlock(width, width, embedding, options.dropout),
        )

        self.up = nn.ModuleList()
        for depth, target in reversed(list(enumerate(widths))):
            for _ in range(options.blocks + 1):
                self.up.append(block(width + skips.pop(), target, size))
                width = target
            if depth:
                # Narrowing here, and not in the next block, keeps the wide maps off the high resolution.
                self.up.append(block(width, width := widths[depth - 1], size, "up"))
                size *= 2
        self.pool_norm = nn.ModuleList([group_norm(widths[-1]), group_norm(widths[0])])

    def forward(self, z: Tensor, log_snr: Tensor, context: Context) -> Features:
        """Noisy points ``(B, C, H, W)``, their log-SNR ``(B,)`` and their context to features."""
        embedding = self.embed(log_snr) + self.embed_flags(context.flags)  # (B, E)
        if self.embed_glance is not None:
            embedding = embedding + self.embed_glance(context.observed)
        hidden = self.stem(torch.cat([z, context.observed], dim=1))  # (B, F, H, W)
        skips = [hidden]
        for layer in self.down:
            hidden = layer(hidden, embedding)
            skips.append(hidden)
        hidden = bottleneck = self.middle(hidden, embedding)
        for layer in self.up:
            is_resampling = cast("ConditionedSequence", layer).resamples
            hidden = layer(hidden if is_resampling else torch.cat([hidden, skips.pop()], dim=1), embedding)
        pooled = [
            functional.silu(norm(x)).mean(dim=(2, 3))  # (B, F)
            for norm, x in zip(self.pool_norm, (bottleneck, hidden), strict=True)
        ]
        return Features(map=hidden, bottleneck=bottleneck, pooled=torch.cat(pooled, dim=1))


class NoiseEmbedding(nn.Module):
    """Log-SNR to a vector: sinusoids (Vaswani et al. 2017) of a time in [0, 1], then a small MLP.

    The time is ``2 / pi * atan(exp(-log_snr / 2))``, the cosine schedule's own: finite at both ends and the same for
    every schedule, so that the network does not depend on which one is used.
    """

    frequencies: Tensor

    def __init__(self, sinusoids: int, outputs: int) -> None:
        super().__init__()
        half = sinusoids // 2
        self.register_buffer(
            "frequencies", 1000 * torch.exp(-math.log(10_000) * torch.arange(half) / half), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(2 * half, outputs), nn.SiLU(), nn.Linear(outputs, outputs), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        """``(B,)`` to ``(B, E)``."""
        time = torch.atan(torch.exp(-log_snr.float() / 2)) * (2 / math.pi)
        phase = time[:, None] * self.frequencies
        return cast("Tensor", self.mlp(torch.cat([phase.cos(), phase.sin()], dim=1)))


class Glance(nn.Module):
    """A coarse view of what is known, 16 numbers for each channel, to an embedding like that of a class; starts at 0.

    What is written in fine detail alone is not in it.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels * GLANCE**2, outputs), nn.SiLU(), zero_init(nn.Linear(outputs, outputs, bias=False))
        )

    def forward(self, observed: Tensor) -> Tensor:
        """Encodings ``(B, K, H, W)`` to ``(B, E)``."""
        coarse = functional.adaptive_avg_pool2d(observed, GLANCE)  # (B, K, 4, 4)
        return cast("Tensor", self.mlp(coarse.flatten(1)))


class ConditionedSequence(nn.Sequential):
    """Layers one after another; residual blocks also get the noise embedding."""

    @property
    def resamples(self) -> bool:
        """Whether the first layer halves or doubles the resolution."""
        return cast("ResidualBlock", self[0]).resample != "same"

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, F, H, W)`` and ``(B, E)`` to ``(B, F', H', W')``."""
        for layer in self:
            hidden = layer(hidden, embedding) if isinstance(layer, ResidualBlock) else layer(hidden)
        return hidden


class ResidualBlock(nn.Module):
    """Two convolutions with adaptive group norm, resampling inside the block."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, resample: Resample = "same") -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = group_norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm_out = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """``(B, F, H, W)`` and ``(B, E)`` to ``(B, F', H', W')``."""
        inner = self._resampled(functional.silu(self.norm_in(hidden)))
        inner = self.conv_in(inner)
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = functional.silu(torch.addcmul(shift, self.norm_out(inner), 1 + scale))
        inner = self.conv_out(self.dropout(inner))
        return cast("Tensor", self.skip(self._resampled(hidden)) + inner)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x


class Attention(nn.Module):
    """Self-attention over all places of a feature map."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, F, H, W)`` to the same."""
        batch, channels, height, width = hidden.shape
        qkv = self.qkv(self.norm(hidden)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.transpose(-1, -2).unbind(dim=1)  # (B, heads, H*W, F/heads) each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return hidden + cast("Tensor", self.out(mixed.transpose(-1, -2).reshape(batch, channels, height, width)))
