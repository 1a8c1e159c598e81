"""What is random in a training step: drawn for the batch of all processes, each thing from a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core.diffusion.objective import known_subsets
from mtdiff_core.randomness import generator

if TYPE_CHECKING:
    from mtdiff_core.assembly import Experiment


class Draws:
    """The draws of an experiment's training steps, which the seed and a step's number alone determine.

    Args:
        experiment: What is trained.
        device: Where noise is drawn.
    """

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        recipe = experiment.recipe
        self.model, self.device, self.seed = experiment.model, device, recipe.seed
        self.batch_size, self.options = recipe.data.batch_size, recipe.diffusion

    def times(self, step: int) -> Tensor:
        """``(B,)``, in (0, 1], float64.

        They are i / T with i spread evenly over 1..T around one random offset (low-discrepancy sampling, Kingma et al.
        2021, arXiv 2107.00630, appendix I.1), which lowers the variance of the loss at no cost.
        """
        offset = torch.rand((), generator=generator(self.seed, "time", step), dtype=torch.float64)
        spread = (offset + torch.arange(self.batch_size) / self.batch_size) % 1
        return ((spread * self.options.steps).floor() + 1) / self.options.steps

    def noise(self, step: int) -> Tensor:
        """``(B, C, H, W)``.

        The anchor's is drawn first, so that whatever else a recipe puts into blocks of their own, it sees the anchor
        under the same noise.
        """
        layout, anchor = self.model.process.layout, self.model.anchor
        random = generator(self.seed, "noise", step, device=self.device)
        channels, height, width = layout.space
        own, start = layout.slot_shape(anchor), layout.channels(anchor).start
        of_anchor = torch.randn((self.batch_size, *own), generator=random, device=self.device)
        rest = torch.randn((self.batch_size, channels - own[0], height, width), generator=random, device=self.device)
        return torch.cat([rest[:, :start], of_anchor, rest[:, start:]], dim=1)

    def known(self, step: int, names: Sequence[str]) -> dict[str, Tensor]:
        """Which samples the network is told each modality of, bool ``(B,)``; none unless it observes."""
        options = self.options
        if options.conditioning != "observe":
            return {name: torch.zeros(self.batch_size, dtype=torch.bool) for name in names}
        random = generator(self.seed, "observe", step)
        may_be_known = [name in (options.observe or names) for name in names]
        drawn = known_subsets(self.batch_size, may_be_known, options.observe_share, options.observe_subsets, random)
        return dict(zip(names, drawn.unbind(dim=1), strict=True))
