"""The training objective: the multi-modal ELBO in its usual re-weighting (method section 4, "simple").

``|| v - v^ ||^2 + sum_i lambda_i (-log p(x_i | z_t))``, missing modalities masked out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from mtdiff_core.diffusion.forward import NoiseLevel
    from mtdiff_core.diffusion.model import MultiModalDiffusion


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A training loss.

    Attributes:
        total: The weighted sum, a scalar.
        terms: Its terms by modality, unweighted scalars: for the anchor the mean squared error of ``v^``, for the
            others the negative log-likelihood in nats per entry.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class MultiModalELBO:
    """The objective of a model.

    Attributes:
        model: The joint model.
        weights: ``lambda_i`` by modality.
    """

    model: MultiModalDiffusion
    weights: Mapping[str, float]

    def training_loss(
        self,
        values: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        level: NoiseLevel,
        noise: Tensor,
        counts: Mapping[str, Tensor] | None = None,
    ) -> Loss:
        """The loss of one batch. What is missing has no loss, nor has what the network is given as known.

        Args:
            values: Model values by modality, ``(B, ...)`` each.
            present: Which samples have them, bool ``(B,)`` each.
            known: Which samples the network is given them of, bool ``(B,)`` each; of those present only.
            level: Noise levels of the batch, in the dtype of the encodings.
            noise: Standard normal, ``(B, C, H, W)``.
            counts: Where this is a part of a larger batch: how many samples of the whole have a loss in each modality,
                see :func:`loss_counts`. The losses of all parts then add up to that of the whole.
        """
        model, anchor = self.model, self.model.anchor
        encodings = model.encode(values, present)
        z_t = model.process.marginal(encodings, level).sample(noise)
        context = model.context(z_t, encodings, known, {name: ~has for name, has in present.items()})
        estimate = model(z_t, level, context)

        own = model.process.layout.channels(anchor)
        velocity = level.alpha[:, own] * noise[:, own] - level.sigma[:, own] * encodings[anchor]
        errors = {anchor: (estimate.velocity.to(velocity.dtype) - velocity).square().mean(dim=(1, 2, 3))}  # (B,)
        for name, distribution in estimate.distributions.items():
            errors[name] = negative_log_likelihood(distribution, values[name])  # (B,)
        counted = {name: present[name] & ~known[name] for name in errors}
        counts = counts or loss_counts(present, known)
        terms = {
            name: torch.where(counted[name], error, 0).sum() / counts[name].clamp(min=1)  # 0 if there are none
            for name, error in errors.items()
        }
        return Loss(total=torch.stack([self.weights[n] * term for n, term in terms.items()]).sum(), terms=terms)


def loss_counts(present: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many samples of a batch have a loss in each modality, scalars: those that have it and are not given it."""
    return {name: (has & ~known[name]).sum() for name, has in present.items()}


def known_subsets(
    batch: int, may_be_known: Sequence[bool], share: float, subsets: str, random: torch.Generator
) -> Tensor:
    """What each sample of a batch is given ("observe", method section 5), bool ``(B, N)``; never everything.

    Args:
        batch: B.
        may_be_known: Which of the N modalities may be given, at least one; N is at least 2.
        share: Share of the samples that are given something, in [0, 1]; the others are joint.
        subsets: What they are given: "uniform" is any subset alike that leaves something to generate, "single" is one
            modality.
        random: Where the draws come from.
    """
    candidates = torch.tensor([place for place, may in enumerate(may_be_known) if may])  # (k,)
    count = len(candidates)
    if subsets == "single":
        chosen = torch.nn.functional.one_hot(torch.randint(count, (batch,), generator=random), count)  # (B, k)
    else:
        stop = 2**count - 1 if count == len(may_be_known) else 2**count
        chosen = torch.randint(1, stop, (batch, 1), generator=random) >> torch.arange(count)  # its bits: (B, k)
    known = torch.zeros(batch, len(may_be_known), dtype=torch.bool)
    known[:, candidates] = chosen % 2 == 1
    return known & (torch.rand(batch, 1, generator=random) < share)


def negative_log_likelihood(distribution: Distribution, values: Tensor) -> Tensor:
    """``-log p(x | z_t)`` in nats per entry of the value, ``(B,)``."""
    return -distribution.log_prob(values) / max(1, distribution.event_shape.numel())
