"""Building blocks for encoders, decoders and networks, for plugins to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.codec import Decoder, Encoder, InvertibleEncoder

if TYPE_CHECKING:
    from mtdiff_core.interfaces.backbone import Features, FeatureShapes
    from mtdiff_core.interfaces.codec import NoisySlot
    from mtdiff_core.interfaces.dataset import Shape

Layer = TypeVar("Layer", bound=nn.Module)

# In cycles a pixel: where the detail begins that a picture of half the size cannot have.
LEAST_CODE_FREQUENCY = 0.25
# Heads of vectors say standard deviations within e^-4 and e^4: one that is ever surer drowns the gradients of all else.
WIDEST_LOG_STD = 4.0


def fixed_codes(count: int, shape: Shape, seed: int, *, fine: bool = True) -> Tensor:
    """Spatial codes of unit RMS, the same for the same arguments on every machine; orthogonal as long as they can be.

    Fine codes hold fine detail alone, where there is room. Pictures have little of it, and an average that is far from
    0: added to white codes, that average would look like some of them at noise levels where nothing else can be seen.
    White codes have every frequency alike, which networks read more easily where nothing else is in the channels.

    Args:
        count: How many.
        shape: Shape of one, ``(c, H, W)``.
        seed: Names the set of codes.
        fine: Fine or white.

    Returns:
        float32, ``(count, c, H, W)``.
    """
    size = torch.Size(shape).numel()
    random = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    frequencies = [torch.fft.fftfreq(length).abs() for length in shape[1:]]  # cycles a pixel, up to 1/2
    highest = torch.maximum(frequencies[0][:, None], frequencies[1])  # (H, W)
    for least in (LEAST_CODE_FREQUENCY, 0.0) if fine else (0.0,):  # without room for fine codes: white ones
        kept = (highest > 0) & (highest >= least)  # never the average
        if count <= shape[0] * int(kept.sum()):
            random = torch.fft.ifft2(torch.fft.fft2(random) * kept).real
            break
    random = random.flatten(1)  # (count, size)
    # A thin QR of at most ``size`` directions at a time keeps each group orthogonal.
    groups = [torch.linalg.qr(group.T).Q.T for group in random.split(size)]  # type: ignore[no-untyped-call]
    codes = torch.cat(groups)
    return (codes / codes.square().mean(dim=1, keepdim=True).sqrt()).float().reshape(count, *shape)


class IdentityEncoder(InvertibleEncoder):
    """Values that already lie in the space."""

    def forward(self, values: Tensor) -> Tensor:
        """The values."""
        return values

    def expected(self, distribution: Distribution) -> Tensor:
        """The mean."""
        return distribution.mean

    def invert(self, encoding: Tensor) -> Tensor:
        """The encoding."""
        return encoding


class VectorEncoder(Encoder):
    """``E(x) = sum_d x_d code_d / sqrt(D)``: linear, and of unit RMS for a vector of D entries of variance 1.

    Args:
        codes: Orthogonal codes of unit RMS, ``(D, c, H, W)``.
    """

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors ``(B, D)`` to encodings ``(B, c, H, W)``."""
        encodings: Tensor = torch.einsum("bd,dchw->bchw", values, self.codes) / len(self.codes) ** 0.5
        return encodings

    def expected(self, distribution: Distribution) -> Tensor:
        """The mean's encoding, since the encoder is linear."""
        return self.forward(distribution.mean)


class VectorGaussianDecoder(Decoder):
    """A normal distribution for every entry of a vector, from the pooled features. Begins as the standard normal.

    Args:
        features: What the backbone gives.
        length: D, entries of the vector.
        hidden: Width of the hidden layer.
    """

    def __init__(self, features: FeatureShapes, length: int, hidden: int) -> None:
        super().__init__()
        last = zero_init(nn.Linear(hidden, 2 * length))
        self.layers = nn.Sequential(nn.Linear(features.pooled, hidden), nn.SiLU(), last)

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(x_i | z_t)`` over ``(D,)``."""
        mean, log_std = self.layers(features.pooled).float().chunk(2, dim=1)  # (B, D) each
        log_std = WIDEST_LOG_STD * torch.tanh(log_std / WIDEST_LOG_STD)
        return Independent(Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)


class ConvolutionalGaussianDecoder(Decoder):
    """A normal distribution for every entry of a picture-like value, from the full-resolution features."""

    def __init__(self, features: FeatureShapes, channels: int) -> None:
        super().__init__()
        width = features.map[0]
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )
        # One width for all entries, learned: it tells how sharply the head can see at all. Scalars cannot be sharded.
        self.log_std = nn.Parameter(torch.zeros(1))

    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(x_i | z_t)`` over ``(channels, H, W)``."""
        mean = self.layers(features.map).float()  # (B, channels, H, W)
        return Independent(Normal(mean, self.log_std.exp(), validate_args=False), 3, validate_args=False)


def read_vector(text: str, length: int) -> Tensor:
    """Numbers that a user wrote with commas between them, float32 ``(1, length)``.

    Raises:
        UserError: They are not so many finite numbers.
    """
    try:
        values = torch.tensor([[float(word) for word in text.split(",")]])
    except ValueError:
        values = torch.empty(1, 0)
    if values.shape[1] != length or not values.isfinite().all():
        example = ",".join(["0.5"] * length)
        raise UserError(f"cannot read {text!r}", hint=f"expected {length} numbers with commas between: {example}")
    return values


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of at least 4 channels, at most 32 groups."""
    return nn.GroupNorm(max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 4)), channels)


def zero_init(layer: Layer) -> Layer:
    """The layer with weights and bias 0, so that it adds nothing until it has learnt something."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def log_mass_of_rounded(normal: Normal, values: Tensor, lowest: float, highest: float, count: int) -> Tensor:
    """Log-probability of values that were rounded to a grid, under normal distributions: the mass of each bin.

    The outermost bins reach to infinity, so that the bins' probabilities sum to one (Ho et al. 2020, arXiv 2006.11239,
    equation 13).

    Args:
        normal: Of every entry by itself.
        values: On the grid, ``(B, ...)``.
        lowest: The smallest value there is.
        highest: The largest.
        count: Number of values, evenly spaced.

    Returns:
        In nats, of the shape of ``values``.
    """
    half = (highest - lowest) / (count - 1) / 2
    offset = values - normal.loc
    below = torch.where(values < lowest + half, -torch.inf, (offset - half) / normal.scale)
    above = torch.where(values > highest - half, torch.inf, (offset + half) / normal.scale)
    # In the upper half both tails are mirrored to the lower one, where differences of their logs are exact.
    mirrored = below + above > 0
    low, high = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    mass: Tensor = log_high + torch.log(-torch.expm1(log_low - log_high))
    return mass
