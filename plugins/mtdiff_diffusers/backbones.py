"""Options of the backbones; the networks themselves are in ``networks``."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from mtdiff_core import Backbone, ContextShape, FeatureShapes, UserError, component, option
from mtdiff_diffusers.library import diffusers, read_config

if TYPE_CHECKING:
    from torch import nn

    from mtdiff_core import Shape

# Schedules by which a network of the library may have been trained; they say which log-SNR a timestep stands for.
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
PRETRAINED = "backbone.pretrained"


@component
class DiffusersBackbone(Backbone):
    """What the backbones have in common: a network of its own options, or one from a folder."""

    model: ClassVar[str]

    pretrained: str = option("", help="local folder that save_pretrained wrote; '' begins with random weights")
    betas: str = option(
        "squaredcos_cap_v2", help="noise schedule of the library by which log-SNR becomes a timestep", choices=BETAS
    )

    def config(self, space: Shape) -> dict[str, Any]:
        """The library's own options of the network.

        Raises:
            UserError: The folder cannot be read.
        """
        if self.pretrained:
            return read_config(self.pretrained, self.model, PRETRAINED)
        return self.own_config(space)

    @abstractmethod
    def own_config(self, space: Shape) -> dict[str, Any]:
        """The library's options of a network with random weights for a space ``(C, H, W)``."""


@component
class DiffusersUNetBackbone(DiffusersBackbone):
    """U-Nets: features are what the library's last convolution would read."""

    channels: tuple[int, ...] = option(
        (32, 64, 64), help="channels at each resolution; each after the first halves the size", minimum=8, maximum=4096
    )
    blocks: int = option(1, help="residual blocks at each resolution", minimum=1, maximum=16)
    attention: tuple[int, ...] = option((8, 4), help="heights of the feature maps that get attention", minimum=1)
    head_channels: int = option(16, help="channels of one attention head", minimum=4, maximum=1024)
    norm_groups: int = option(8, help="groups of group norm", minimum=1, maximum=512)
    # Keys of the library's configuration by which its network asks for more than noise, time and tokens.
    ASKING: ClassVar[tuple[str, ...]] = (
        "num_class_embeds", "class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim",
    )  # fmt: skip
    # Of the library, from full resolution down: without and with attention.
    down: ClassVar[tuple[str, str]]
    up: ClassVar[tuple[str, str]]

    def feature_shapes(self, space: Shape) -> FeatureShapes:
        """The full-resolution map has the first of ``channels``, the bottleneck the last."""
        widths = self._widths(space)
        _, height, width = space
        shrink = 2 ** (len(widths) - 1)
        return FeatureShapes(
            map=(widths[0], height, width),
            bottleneck=(widths[-1], height // shrink, width // shrink),
            pooled=widths[0] + widths[-1],
        )

    def build(self, space: Shape, context: ContextShape) -> nn.Module:
        """The network."""
        diffusers()
        from mtdiff_diffusers.networks import UNetNetwork

        self._widths(space)
        return UNetNetwork(self, space, context)

    def own_config(self, space: Shape) -> dict[str, Any]:
        """As the options say."""
        attends = [space[1] >> depth in self.attention for depth in range(len(self.channels))]
        return {
            "sample_size": space[1],
            "block_out_channels": self.channels,
            "layers_per_block": self.blocks,
            "down_block_types": tuple(self.down[one] for one in attends),
            "up_block_types": tuple(self.up[one] for one in reversed(attends)),
            "attention_head_dim": self.head_channels,
            "norm_num_groups": self.norm_groups,
        }

    def _widths(self, space: Shape) -> tuple[int, ...]:
        """Channels at each resolution, if they fit the space."""
        config = self.config(space)
        self._check_needs(config)
        widths = tuple(config["block_out_channels"])
        if not widths:
            raise UserError("needs at least one entry", "backbone.channels", "for example: channels = [32, 64, 64]")
        shrink = 2 ** (len(widths) - 1)
        if space[1] % shrink or space[2] % shrink:
            what = f"{len(widths)} resolutions need a size that is a multiple of {shrink}, not {space[1]}x{space[2]}"
            raise UserError(what, "backbone.channels", "each entry after the first halves the size")
        if not self.pretrained:
            self._check_divisors()
        return widths

    def _check_needs(self, config: dict[str, Any]) -> None:
        """Refuse a network from a folder that asks for what nobody tells it, or lacks what is read off it."""
        for key in self.ASKING:
            if config.get(key) is not None:
                what = f"its network has {key} = {config[key]!r}, and asks for what no recipe gives"
                raise UserError(what, PRETRAINED, "use one that is told the noise's level, and tokens, alone")
        if config.get("mid_block_type", "") is None:
            raise UserError("its network has no middle block, whose features are read", PRETRAINED)

    def _check_divisors(self) -> None:
        for key in ("norm_groups", "head_channels"):
            divisor = getattr(self, key)
            bad = [width for width in self.channels if width % divisor]
            if bad:
                raise UserError(f"{bad[0]} channels cannot be divided by {divisor}", f"backbone.{key}")


@component
class DiffusersUNet(DiffusersUNetBackbone):
    """``diffusers.UNet2DModel``: the U-Net of DDPM (Ho et al. 2020, arXiv 2006.11239) and its pretrained weights."""

    model: ClassVar[str] = "UNet2DModel"
    down: ClassVar[tuple[str, str]] = ("DownBlock2D", "AttnDownBlock2D")
    up: ClassVar[tuple[str, str]] = ("UpBlock2D", "AttnUpBlock2D")


@component
class DiffusersConditionalUNet(DiffusersUNetBackbone):
    """``diffusers.UNet2DConditionModel``: that of latent diffusion (Rombach et al. 2022, arXiv 2112.10752).

    What is known and what is missing also reaches it through cross-attention.
    """

    model: ClassVar[str] = "UNet2DConditionModel"
    down: ClassVar[tuple[str, str]] = ("DownBlock2D", "CrossAttnDownBlock2D")
    up: ClassVar[tuple[str, str]] = ("UpBlock2D", "CrossAttnUpBlock2D")

    context_channels: int = option(64, help="channels of the tokens that cross-attention reads", minimum=8)

    def own_config(self, space: Shape) -> dict[str, Any]:
        """As the options say; its library takes the number of heads for that of their channels."""
        heads = tuple(max(1, width // self.head_channels) for width in self.channels)
        return {**DiffusersUNetBackbone.own_config(self, space), "attention_head_dim": heads,
                "cross_attention_dim": self.context_channels}  # fmt: skip


@component
class DiffusersDiT(DiffusersBackbone):
    """``diffusers.DiTTransformer2DModel`` (Peebles and Xie 2023, arXiv 2212.09748)."""

    model: ClassVar[str] = "DiTTransformer2DModel"

    patch: int = option(2, help="height and width of a patch", minimum=1, maximum=64)
    layers: int = option(4, help="transformer blocks", minimum=1, maximum=128)
    heads: int = option(4, help="attention heads", minimum=1, maximum=64)
    head_channels: int = option(32, help="channels of one attention head", minimum=4, maximum=1024)
    features: int = option(32, help="channels of the full-resolution map that heads read", minimum=8, maximum=4096)

    def own_config(self, space: Shape) -> dict[str, Any]:
        """As the options say."""
        return {
            "sample_size": space[1],
            "patch_size": self.patch,
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_channels,
            "num_embeds_ada_norm": 1,
        }

    def feature_shapes(self, space: Shape) -> FeatureShapes:
        """The bottleneck are the tokens."""
        config = self.config(space)
        _, height, width = space
        patch, tokens = config["patch_size"], config["num_attention_heads"] * config["attention_head_dim"]
        if tokens % 4:  # sines and cosines of two places
            what = f"{config['num_attention_heads']} heads of {config['attention_head_dim']} channels are {tokens}"
            raise UserError(f"{what}, and must be a multiple of 4", "backbone.head_channels")
        if height != width or height % patch:
            raise UserError(
                f"needs a square whose size is a multiple of {patch}, not {height}x{width}", "backbone.patch"
            )
        return FeatureShapes(
            map=(self.features, height, width),
            bottleneck=(tokens, height // patch, width // patch),
            pooled=tokens + self.features,
        )

    def build(self, space: Shape, context: ContextShape) -> nn.Module:
        """The network."""
        diffusers()
        from mtdiff_diffusers.networks import DiTNetwork

        self.feature_shapes(space)
        return DiTNetwork(self, space, context)
