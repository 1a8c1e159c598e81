"""The moving average of the weights, right from the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mtdiff_core.diffusion.model import MultiModalDiffusion


class ExponentialMovingAverage(AveragedModel):
    """``average <- d average + (1 - d) weights`` with ``d = min(ema_decay, (1 + n) / (10 + n))`` after n updates.

    The first update copies the weights. The warm-up of d makes the average span about the last tenth of a short run,
    so that the average of 50 steps holds nothing of the initial noise and little of the first steps.
    """

    def __init__(self, model: MultiModalDiffusion, decay: float) -> None:
        super().__init__(model, multi_avg_fn=_warmed_up(decay))

    @property
    def model(self) -> MultiModalDiffusion:
        """The model with averaged weights."""
        module = self.module
        assert isinstance(module, MultiModalDiffusion)
        return module


def _warmed_up(decay: float) -> Callable[..., None]:
    @torch.no_grad()
    def update(average: list[Tensor], weights: list[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(average, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update
