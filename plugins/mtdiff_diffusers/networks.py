"""Networks of the library, giving features in place of pictures.

Letters for shapes: B batch, C channels of the diffusion space, K of the context, F feature channels, H W height and
width, h w those of the bottleneck, D channels of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtdiff_core import Context, Features, UserError
from mtdiff_diffusers.backbones import PRETRAINED
from mtdiff_diffusers.library import diffusers, read_model

if TYPE_CHECKING:
    from mtdiff_core import ContextShape, Shape
    from mtdiff_diffusers.backbones import DiffusersBackbone, DiffusersDiT, DiffusersUNetBackbone

GLANCE = 4  # height and width of the coarse view of what is known
TRAINED_STEPS = 1000  # of the library's schedules


class Timesteps(nn.Module):
    """Log-SNR to the timestep, a real number, at which a schedule of the library has it.

    Args:
        betas: Name of the schedule.
    """

    falling: Tensor

    def __init__(self, betas: str) -> None:
        super().__init__()
        # As in Stable Diffusion's configuration and in DDPM's
        ends = (0.00085, 0.012) if betas == "scaled_linear" else (0.0001, 0.02)
        schedule = diffusers().DDPMScheduler(
            num_train_timesteps=TRAINED_STEPS, beta_schedule=betas, beta_start=ends[0], beta_end=ends[1]
        )
        table = torch.logit(schedule.alphas_cumprod.double()).float()  # log(alpha_bar / (1 - alpha_bar)), falling
        self.register_buffer("falling", -table, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """``(B,)`` to ``(B,)`` in 0..999; beyond the schedule's ends, those."""
        wanted = (-log_snr.float()).clamp(self.falling[0], self.falling[-1])
        right = torch.searchsorted(self.falling, wanted).clamp(1, TRAINED_STEPS - 1)
        low, high = self.falling[right - 1], self.falling[right]
        return right - 1 + (wanted - low) / (high - low)


class _Tapped(nn.Module):
    """Keeps what a layer amid the network gives, until it is taken."""

    kept: Tensor | None = None

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.kept = output

    def _taken(self) -> Tensor:
        kept, self.kept = self.kept, None
        assert kept is not None
        return kept


class UNetNetwork(_Tapped):
    """A U-Net: ``forward(z, log_snr, context) -> Features``.

    Encodings of what is known, and a plane for each flag, are stacked on ``z``.

    Args:
        options: Which network.
        space: ``(C, H, W)`` of the diffusion space.
        context: What comes besides.
    """

    def __init__(self, options: DiffusersUNetBackbone, space: Shape, context: ContextShape) -> None:
        super().__init__()
        self.timesteps = Timesteps(options.betas)
        inputs = space[0] + context.channels + context.flags
        self.net = _network(options, space, inputs)
        self.net.conv_in = _first(self.net.conv_in, options, inputs, space[0])
        self.net.conv_out = nn.Identity()
        self.net.mid_block.register_forward_hook(self._keep)
        tokens = self.net.config.get("cross_attention_dim")
        # Begins with a token of zeros, of which cross-attention makes nothing
        self.token = _zeroed(nn.Linear(context.flags + GLANCE**2 * context.channels, tokens)) if tokens else None

    def forward(self, z: Tensor, log_snr: Tensor, context: Context) -> Features:
        """Noisy points ``(B, C, H, W)``, their log-SNR ``(B,)`` and their context to features."""
        told = {} if self.token is None else {"encoder_hidden_states": self.token(_seen(context))[:, None]}  # (B, 1, D)
        answer = self.net(_stacked(z, context), self.timesteps(log_snr), **told)
        full = cast("Tensor", answer.sample)  # (B, F, H, W)
        return _features(full, self._taken())  # (B, F', h, w) of the bottleneck


class DiTNetwork(_Tapped):
    """A diffusion transformer: ``forward(z, log_snr, context) -> Features``.

    Args:
        options: Which network.
        space: ``(C, H, W)`` of the diffusion space.
        context: What comes besides.
    """

    def __init__(self, options: DiffusersDiT, space: Shape, context: ContextShape) -> None:
        super().__init__()
        self.timesteps = Timesteps(options.betas)
        inputs = space[0] + context.channels + context.flags
        self.net = _network(options, space, inputs)
        patches = self.net.pos_embed
        patches.proj = _first(patches.proj, options, inputs, space[0])
        self.net.out_channels = options.features
        self.net.proj_out_2 = nn.Linear(self.net.inner_dim, options.features * self.net.patch_size**2)
        self.no_class = int(self.net.config.num_embeds_ada_norm)
        for block in self.net.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # there is no class to drop
        self.net.transformer_blocks[-1].register_forward_hook(self._keep)

    def forward(self, z: Tensor, log_snr: Tensor, context: Context) -> Features:
        """Noisy points ``(B, C, H, W)``, their log-SNR ``(B,)`` and their context to features."""
        classes = torch.full((len(z),), self.no_class, device=z.device)
        answer = self.net(_stacked(z, context), timestep=self.timesteps(log_snr), class_labels=classes)
        full = cast("Tensor", answer.sample)  # (B, F, H, W)
        size = z.shape[-1] // self.net.patch_size
        tokens = self._taken().transpose(1, 2)  # (B, D, h w)
        return _features(full, tokens.reshape(*tokens.shape[:2], size, size))


def _network(options: DiffusersBackbone, space: Shape, inputs: int) -> Any:
    """The library's network, with its own first and last layer."""
    cls = getattr(diffusers(), options.model)
    if options.pretrained:
        return read_model(options.pretrained, cls, PRETRAINED)
    return cls(**options.config(space), in_channels=inputs)


def _first(layer: nn.Conv2d, options: DiffusersBackbone, inputs: int, space: int) -> nn.Conv2d:
    """A first layer that reads all inputs; those past the channels that one was trained on begin at 0.

    Raises:
        UserError: The space has fewer channels than the layer was trained on.
    """
    if not options.pretrained:
        return layer
    if layer.in_channels > space:
        raise UserError(
            f"its network was trained on {layer.in_channels} channels, and the diffusion space has {space}", PRETRAINED
        )
    wide = nn.Conv2d(
        inputs,
        layer.out_channels,
        cast("Any", layer.kernel_size),
        cast("Any", layer.stride),
        cast("Any", layer.padding),
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : layer.in_channels] = layer.weight
        if wide.bias is not None and layer.bias is not None:
            wide.bias.copy_(layer.bias)
    return wide


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _stacked(z: Tensor, context: Context) -> Tensor:
    """All that has a place, and a plane for each flag, ``(B, C + K + flags, H, W)``."""
    planes = context.flags[:, :, None, None].expand(-1, -1, *z.shape[2:])
    return torch.cat([z, context.observed, planes], dim=1)


def _seen(context: Context) -> Tensor:
    """Flags, and a coarse view of what is known, ``(B, flags + 16 K)``."""
    coarse = functional.adaptive_avg_pool2d(context.observed, GLANCE) if context.observed.shape[1] else context.observed
    return torch.cat([context.flags, coarse.flatten(1)], dim=1)


def _features(full: Tensor, bottleneck: Tensor) -> Features:
    pooled = [functional.silu(x).mean(dim=(2, 3)) for x in (bottleneck, full)]
    return Features(map=full, bottleneck=bottleneck, pooled=torch.cat(pooled, dim=1))
