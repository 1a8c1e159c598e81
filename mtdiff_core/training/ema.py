"""The moving average of the weights, right from the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mtdiff_core.diffusion.model import MultiModalDiffusion
from mtdiff_core.training.parallel import own_part


class ExponentialMovingAverage(AveragedModel):
    """``average <- d average + (1 - d) weights`` with ``d = min(ema_decay, (1 + n) / (10 + n))`` after n updates.

    The first update copies the weights. The warm-up of d makes the average span about the last tenth of a short run,
    so that the average of 50 steps holds nothing of the initial noise and little of the first steps.

    How many updates there were is known to the device, and to the host only where it asks: whether a step counts is not
    waited for.
    """

    def __init__(self, model: MultiModalDiffusion, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.n_averaged = self.n_averaged.to(next(model.parameters()).device)  # torch leaves it on the host
        self._pairs: tuple[nn.Module, list[list[Tensor]]] | None = None

    @property
    def model(self) -> MultiModalDiffusion:
        """The model with averaged weights."""
        module = self.module
        assert isinstance(module, MultiModalDiffusion)
        return module

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, counts: Tensor | None = None) -> None:
        """Average the weights of a model, and copy its buffers.

        torch's own looks for every parameter anew each time, which takes longer than averaging them.

        Args:
            model: The model.
            counts: Whether to average, a bool scalar on the model's device; by default yes.
        """
        averages, weights, own_buffers, buffers = self._tensors(model)
        counts = torch.ones_like(self.n_averaged, dtype=torch.bool) if counts is None else counts
        move_towards(averages, weights, lambda dtype: torch.where(counts, self._share(dtype), 0))
        for own, its in zip(own_buffers, buffers, strict=True):
            own.copy_(its)
        self.n_averaged += counts

    def _share(self, dtype: torch.dtype) -> Tensor:
        """``1 - d``, a scalar."""
        warming_up = 9 / (10 + self.n_averaged.to(dtype))  # 1 - (1 + n) / (10 + n)
        return torch.where(self.n_averaged > 0, warming_up.clamp(min=1 - self.decay), 1)

    def _tensors(self, model: nn.Module) -> list[list[Tensor]]:
        """Averages, weights, and both models' buffers; they stay the same tensors, whatever is written into them."""
        if self._pairs is None or self._pairs[0] is not model:
            found: list[list[Tensor]] = [
                [own_part(parameter.detach()) for parameter in self.module.parameters()],
                [own_part(parameter.detach()) for parameter in model.parameters()],
                list(self.module.buffers()),
                list(model.buffers()),
            ]
            self._pairs = (model, found)
        return self._pairs[1]


def move_towards(averages: list[Tensor], weights: list[Tensor], share: Callable[[torch.dtype], Tensor]) -> None:
    """``average <- average + share (weight - average)``, without waiting for the share.

    Args:
        averages: Changed in place.
        weights: Of the same shapes and precisions.
        share: A scalar on their device, as precise as asked.
    """
    shares = {dtype: share(dtype) for dtype in {average.dtype for average in averages}}
    torch._foreach_lerp_(averages, weights, [shares[average.dtype] for average in averages])
