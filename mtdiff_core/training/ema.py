"""The moving average of the weights, right from the first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mtdiff_core.diffusion.model import MultiModalDiffusion


class ExponentialMovingAverage(AveragedModel):
    """``average <- d average + (1 - d) weights`` with ``d = min(ema_decay, (1 + n) / (10 + n))`` after n updates.

    The first update copies the weights. The warm-up of d makes the average span about the last tenth of a short run,
    so that the average of 50 steps holds nothing of the initial noise and little of the first steps.
    """

    def __init__(self, model: MultiModalDiffusion, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._pairs: tuple[nn.Module, list[list[Tensor]]] | None = None

    @property
    def model(self) -> MultiModalDiffusion:
        """The model with averaged weights."""
        module = self.module
        assert isinstance(module, MultiModalDiffusion)
        return module

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average the weights of a model, and copy its buffers.

        torch's own looks for every parameter anew each time, which takes longer than averaging them.
        """
        averages, weights, own_buffers, buffers = self._tensors(model)
        n = int(self.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for own, its in zip(own_buffers, buffers, strict=True):
            own.copy_(its)
        self.n_averaged += 1

    def _tensors(self, model: nn.Module) -> list[list[Tensor]]:
        """Averages, weights, and both models' buffers; they stay the same tensors, whatever is written into them."""
        if self._pairs is None or self._pairs[0] is not model:
            found: list[list[Tensor]] = [
                [parameter.detach() for parameter in self.module.parameters()],
                [parameter.detach() for parameter in model.parameters()],
                list(self.module.buffers()),
                list(model.buffers()),
            ]
            self._pairs = (model, found)
        return self._pairs[1]
