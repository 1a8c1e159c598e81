"""The 256 grey levels as model values, and normal distributions whose mass of each of them is known."""

import torch
from torch.distributions import Independent, Normal

F64 = torch.float64
LEVELS = torch.arange(256, dtype=F64) / 127.5 - 1
HALF = 1 / 255  # half of what lies between two levels
EDGES = (LEVELS[1:] + LEVELS[:-1]) / 2


def one_pixel(values):
    """A picture of one pixel for each value, ``(N, 1, 1, 1)``."""
    return values[:, None, None, None]


def normal(mean, std, dtype=F64):
    """Of pictures of one pixel, as a decoder gives it."""
    mean, std = torch.broadcast_tensors(torch.as_tensor(mean, dtype=dtype), torch.as_tensor(std, dtype=dtype))
    mean, std = (one_pixel(x.expand(256)) for x in (mean, std))
    return Independent(Normal(mean, std), 3)


def masses(mean, std):
    """Of all levels by differences of the distribution function, the outermost bins without end; float64."""
    below = torch.cat([torch.tensor([-torch.inf], dtype=F64), (EDGES - mean) / std])
    above = torch.cat([(EDGES - mean) / std, torch.tensor([torch.inf], dtype=F64)])
    # Each tail by itself: there, a difference from 1 would leave nothing.
    tails = [torch.special.erfc(x / 2**0.5) / 2 for x in (-above, -below, below, above)]
    return torch.where(below + above > 0, tails[2] - tails[3], tails[0] - tails[1])


def of_one_256th():
    """For each level the mean and the standard deviation of a normal distribution that has 1/256 of its mass there."""
    of_normal = torch.special.ndtri(torch.tensor([1 / 256, 0.5 + 1 / 512], dtype=F64))
    std = HALF / of_normal[1]
    mean = LEVELS.clone()
    mean[0] = LEVELS[0] + HALF - std * of_normal[0]  # its bin begins at minus infinity
    mean[-1] = -mean[0]
    return mean, std.expand(256)
