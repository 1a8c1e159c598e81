"""Initial weights that are given, in place of those that a recipe's seed draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def start_from(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replace the parameters that ``weights`` has under the same name and in the same shape; others stay."""
    for name, parameter in model.named_parameters():
        if _has(weights, name, parameter):
            parameter.copy_(weights[name])


def equal_share(model: nn.Module, weights: Mapping[str, Tensor]) -> float:
    """Share in [0, 1] of a model's parameters that :func:`start_from` replaces."""
    sizes = [(parameter.numel(), _has(weights, name, parameter)) for name, parameter in model.named_parameters()]
    return sum(size for size, has in sizes if has) / sum(size for size, _ in sizes)


def _has(weights: Mapping[str, Tensor], name: str, parameter: Tensor) -> bool:
    return name in weights and weights[name].shape == parameter.shape
