"""The training objective: the multi-modal ELBO in its usual re-weighting (method section 4, "simple").

``|| v - v^ ||^2 + sum_i lambda_i (-log p(x_i | z_t))``, missing modalities masked out.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], level: NoiseLevel, noise: Tensor
    ) -> Loss:
        """The loss of one batch.

        Args:
            values: Model values by modality, ``(B, ...)`` each.
            present: Which samples have them, bool ``(B,)`` each.
            level: Noise levels of the batch, in the dtype of the encodings.
            noise: Standard normal, ``(B, C, H, W)``.
        """
        model, anchor = self.model, self.model.anchor
        encodings = model.encode(values, present)
        z_t = model.process.marginal(encodings, level).sample(noise)
        estimate = model(z_t, level)

        own = model.process.layout.channels(anchor)
        velocity = level.alpha[:, own] * noise[:, own] - level.sigma[:, own] * encodings[anchor]
        errors = {anchor: (estimate.velocity.to(velocity.dtype) - velocity).square().mean(dim=(1, 2, 3))}  # (B,)
        for name, distribution in estimate.distributions.items():
            errors[name] = negative_log_likelihood(distribution, values[name])  # (B,)
        terms = {name: _mean_over_present(error, present[name]) for name, error in errors.items()}
        return Loss(total=torch.stack([self.weights[n] * term for n, term in terms.items()]).sum(), terms=terms)


def negative_log_likelihood(distribution: Distribution, values: Tensor) -> Tensor:
    """``-log p(x | z_t)`` in nats per entry of the value, ``(B,)``."""
    return -distribution.log_prob(values) / max(1, distribution.event_shape.numel())


def _mean_over_present(error: Tensor, present: Tensor) -> Tensor:
    """Mean of ``error`` ``(B,)`` over the samples that are present; 0 if there are none."""
    return torch.where(present, error, 0).sum() / present.sum().clamp(min=1)
