"""VICReg: variance-invariance-covariance regularisation (Bardes et al. 2022, arXiv 2105.04906).

Letters for shapes: B batch, F features, E entries of an embedding, (C, H, W) a picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtdiff_core.randomness import generator, global_stream
from mtdiff_representation.views import random_view

if TYPE_CHECKING:
    from mtdiff_core import Workshop

# Weights of the three terms (section 4.2), and the embedding's width in multiples of the features'.
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
EXPANSION = 4
BATCH = 256
LEARNING_RATE, WARMUP = 2e-3, 0.1


def vicreg_loss(one: Tensor, other: Tensor) -> Tensor:
    """Equation 6, for the embeddings ``(B, E)`` of two views of the same pictures."""
    invariance = functional.mse_loss(one, other)
    variance = (_collapse(one) + _collapse(other)) / 2
    return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * (_correlation(one) + _correlation(other))


def _collapse(embedding: Tensor) -> Tensor:
    """Equation 1: how far the entries' standard deviations fall short of 1."""
    return functional.relu(1 - (embedding.var(dim=0) + 1e-4).sqrt()).mean()


def _correlation(embedding: Tensor) -> Tensor:
    """Equation 4: squared covariances of different entries, summed, for each entry."""
    covariance = embedding.T.cov()  # (E, E)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / len(covariance)


def train(network: nn.Module, pictures: Tensor, steps: int, flip: bool, workshop: Workshop) -> None:
    """Train a network in place; equal arguments give equal weights on the same hardware.

    Args:
        network: Pictures ``(B, C, H, W)``, float32 -1..1, to features ``(B, F)``.
        pictures: uint8 ``(N, C, H, W)``.
        steps: Optimizer steps.
        flip: Whether a picture and its mirror image are to mean the same.
        workshop: Device, seed and progress.
    """
    device, seed = workshop.device, workshop.seed
    pictures = pictures.to(device)
    with torch.no_grad():
        features = network.eval()(torch.zeros(1, *pictures.shape[1:])).shape[1]
    with global_stream(seed, "representation", "expander"):
        expander = _expander(features)
    model = nn.Sequential(network, expander).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    advance = workshop.progress("learning a representation", steps)
    for step in range(steps):
        random = generator(seed, "representation", "step", step)
        chosen = torch.randint(len(pictures), (min(BATCH, len(pictures)),), generator=random)
        batch = pictures[chosen.to(device)].float() / 127.5 - 1
        loss = vicreg_loss(*(model(random_view(batch, flip, random)) for _ in range(2)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        advance(1)
    network.eval()


def _expander(features: int) -> nn.Module:
    """Features to embeddings (section 4.2), which are used in training alone."""
    wide = EXPANSION * features
    return nn.Sequential(
        nn.Linear(features, wide), nn.BatchNorm1d(wide), nn.ReLU(),
        nn.Linear(wide, wide), nn.BatchNorm1d(wide), nn.ReLU(),
        nn.Linear(wide, wide, bias=False),
    )  # fmt: skip


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine decay to 0."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
