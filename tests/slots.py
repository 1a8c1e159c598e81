"""Slots for decoders that are tested without a model."""

import torch

from mtdiff_core import NoisySlot


def noisy_slot(z, coefficient, variance, clarity=1.0):
    """A slot ``(B, c, H, W)`` with the same coefficient and variance everywhere."""
    whole = torch.ones_like(z[:, :, :1, :1])
    return NoisySlot(
        z=z, coefficient=coefficient * whole, variance=variance * whole, clarity=torch.full_like(z[:, 0, 0, 0], clarity)
    )


def silent_slot(count, slot):
    """A slot that says nothing, so that a head has its features alone."""
    return noisy_slot(torch.zeros(count, *slot), coefficient=0.0, variance=1.0)
