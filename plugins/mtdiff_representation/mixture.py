"""A mixture of normal distributions: what white vectors look like before anything is seen of one of them.

Letters for shapes: N samples, B batch, K components, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

ROUNDS = 50
MOST_SAMPLES = 50_000  # more say hardly more
LEAST_SAMPLES = 8  # for each component
# Each component's variances are those of its samples and of so many more that have this variance.
PRIOR_SAMPLES, PRIOR_VARIANCE = 10, 0.2


class VectorDistribution(MixtureSameFamily):
    """A mixture over vectors ``(D,)``, with a mode."""

    def __init__(self, logits: Tensor, mean: Tensor, std: Tensor) -> None:
        """Components of weights ``(B, K)``, unnormalised logs, and means and deviations ``(B, K, D)``."""
        components = Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)
        super().__init__(Categorical(logits=logits, validate_args=False), components, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """The mean of the likeliest component, ``(B, D)``.

        Not where the density is highest: in many dimensions that is in some narrow component, however unlikely.
        """
        likeliest = self.mixture_distribution.logits.argmax(dim=1)  # (B,)
        means = self.component_distribution.mean  # (B, K, D)
        return means[torch.arange(len(means), device=means.device), likeliest]


@dataclass(frozen=True)
class Mixture:
    """Normal distributions with diagonal covariances, and how often each is met.

    Whitening leaves a vector's dimensions uncorrelated, but neither independent nor normal: there are clusters.

    Attributes:
        weight: ``(K,)``, of sum 1.
        mean: ``(K, D)``.
        variance: ``(K, D)``.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def standard(cls, dimensions: int) -> Mixture:
        """The standard normal distribution: all that is known of a white vector without samples."""
        return cls(torch.ones(1), torch.zeros(1, dimensions), torch.ones(1, dimensions))

    @classmethod
    def fit(cls, vectors: Tensor, components: int) -> Mixture:
        """Expectation maximisation from k-means++ centres, up to a local optimum; the same for the same vectors.

        Args:
            vectors: White, ``(N, D)``; of very many, some are drawn.
            components: K, or fewer where there are fewer than eight vectors for each.
        """
        random = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(vectors), generator=random)[:MOST_SAMPLES]
        x = vectors[rows].double()
        mean = _spread_out(x, max(1, min(components, len(x) // LEAST_SAMPLES)), random)
        spread = torch.cdist(x, mean).amin(dim=1).square().mean() / x.shape[1]  # to the nearest centre, a dimension
        variance = torch.ones_like(mean) * spread.clamp(min=PRIOR_VARIANCE)
        mixture = cls(torch.full_like(mean[:, 0], 1 / len(mean)), mean, variance)
        for _ in range(ROUNDS):
            mixture = mixture._improved(x)
        return cls(mixture.weight.float(), mixture.mean.float(), mixture.variance.float())

    def _improved(self, x: Tensor) -> Mixture:
        """After one step of expectation maximisation on ``(N, D)``."""
        precision = 1 / self.variance
        squares = x.square() @ precision.T - 2 * x @ (self.mean * precision).T  # (N, K)
        constant = (self.mean.square() * precision + self.variance.log()).sum(dim=1)  # (K,)
        share = (self.weight.log() - (squares + constant) / 2).softmax(dim=1)
        count = share.sum(dim=0)[:, None] + 1e-6  # (K, 1): a component that has lost all its samples stays finite
        mean = share.T @ x / count
        spread = (share.T @ x.square() - count * mean.square()).clamp(min=0)
        variance = (spread + PRIOR_SAMPLES * PRIOR_VARIANCE) / (count + PRIOR_SAMPLES)
        return Mixture(count[:, 0] / count.sum(), mean, variance)

    def given(self, precision: Tensor, estimate: Tensor) -> VectorDistribution:
        """Bayes' rule after each dimension was seen as ``estimate``, with a normal error of this ``precision``.

        Args:
            precision: ``(B, D)``, 0 where nothing was seen.
            estimate: ``(B, D)``.
        """
        seen, values = precision[:, None], estimate[:, None]  # (B, 1, D)
        both = 1 / self.variance + seen  # (B, K, D)
        relative = 1 + seen * self.variance
        surprise = (values - self.mean).square() * seen / relative + relative.log()
        return VectorDistribution(
            logits=self.weight.log() - surprise.sum(dim=2) / 2,
            mean=(self.mean / self.variance + values * seen) / both,
            std=both.rsqrt(),
        )

    def state(self) -> Mapping[str, Tensor]:
        """What :meth:`from_state` needs."""
        return {"prior.weight": self.weight, "prior.mean": self.mean, "prior.variance": self.variance}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Mixture:
        """The mixture that was saved."""
        return cls(state["prior.weight"], state["prior.mean"], state["prior.variance"])


def _spread_out(x: Tensor, count: int, random: torch.Generator) -> Tensor:
    """``count`` of the vectors ``(N, D)``, far from each other: k-means++ (Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(x), (), generator=random))]
    distance = torch.full((len(x),), torch.inf, dtype=x.dtype)  # squared, to the nearest chosen one
    while len(chosen) < count:
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(torch.multinomial(distance.clamp(min=1e-12), 1, generator=random)))
    return x[chosen]
