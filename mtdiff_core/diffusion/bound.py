"""The multi-modal ELBO itself, term by term (method section 4): ``-log p(X) <= L_prior + sum_t L_t + L_recon``.

Letters for shapes: B samples, T steps of the chain, n of them that are computed, C channels of the diffusion space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import attrs
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from mtdiff_core.diffusion.forward import posterior_gain, posterior_std

if TYPE_CHECKING:
    from mtdiff_core.data.batches import Batch
    from mtdiff_core.diffusion.forward import Encodings, ForwardProcess, NoiseLevel
    from mtdiff_core.diffusion.model import Estimate, MultiModalDiffusion
    from mtdiff_core.interfaces.modality import Modality

# A network's own precision is enough for its answer; everything around it is in this one.
EXACT = torch.float64
# log-SNR from which on nothing of the data is left in z_T, in any channel.
LEAST_LOG_SNR = -13.0

# Modalities that write into the same channels; what their sum costs cannot be told apart.
Group = tuple[str, ...]
# Standard normal numbers of a shape, float64; by default from a generator.
Noise = Callable[[torch.Size], Tensor]


@attrs.frozen(kw_only=True)
class Steps:
    """Which of the steps ``t = 2..T`` are computed for a sample: all, or some of each of equal strata.

    Attributes:
        log_snr: The schedule's log-SNR at ``t = 1..T``, decreasing, ``(T,)``.
        strata: Where each stratum begins and the last one ends, as indices of ``log_snr`` from 1 to T, ``(K + 1,)``.
        drawn: Steps computed in each stratum: all (0), or two of them.
    """

    log_snr: Tensor
    strata: Tensor
    drawn: int

    @classmethod
    def all(cls, log_snr: Tensor) -> Steps:
        """Every step, each a stratum of its own."""
        return cls(log_snr=log_snr, strata=torch.arange(1, len(log_snr) + 1), drawn=0)

    @classmethod
    def some(cls, log_snr: Tensor, count: int) -> Steps:
        """About ``count`` steps: two in each of half as many strata, so that the spread within them can be seen.

        Args:
            log_snr: As for the class.
            count: At least 2; from T - 1 on, every step is computed.
        """
        steps = len(log_snr) - 1
        if count >= steps:
            return cls.all(log_snr)
        strata = torch.linspace(1, len(log_snr), max(1, count // 2) + 1, dtype=EXACT).round().long()
        return cls(log_snr=log_snr, strata=strata, drawn=2)

    @property
    def sizes(self) -> Tensor:
        """Steps in each stratum, ``(K,)``."""
        return self.strata.diff()

    def draw(self, samples: int, random: torch.Generator) -> Tensor:
        """Indices of ``log_snr`` of the computed steps, ``(n, B)``, stratum after stratum; each sample has its own."""
        if not self.drawn:
            return self.strata[:-1, None].expand(-1, samples)
        sizes = self.sizes[:, None]
        first = (torch.rand(len(sizes), samples, generator=random) * sizes).long()
        other = (first + 1 + (torch.rand(len(sizes), samples, generator=random) * (sizes - 1)).long()) % sizes
        return (self.strata[:-1, None, None] + torch.stack([first, other], dim=1)).flatten(0, 1)

    def sums(self, terms: Tensor) -> Tensor:
        """Estimated sum of ``L_t`` over each stratum, ``(K, B)``, from computed terms ``(n, B)``."""
        if not self.drawn:
            return terms
        sums: Tensor = self._pairs(terms).mean(dim=1) * self.sizes[:, None].to(terms)
        return sums

    def variance(self, terms: Tensor) -> Tensor:
        """Estimated variance, ``(B,)``, of the sum over all strata, from the choice of steps alone.

        Two of N without replacement: ``N^2 (1 - 2/N) S^2 / 2`` with ``S^2`` the variance within the stratum.
        """
        if not self.drawn:
            return torch.zeros_like(terms[0])
        first, other = self._pairs(terms).unbind(dim=1)  # (K, B) each
        sizes = self.sizes[:, None].to(terms)
        variance: Tensor = (sizes * (sizes - 2) * (first - other).square() / 4).sum(dim=0)
        return variance

    def _pairs(self, terms: Tensor) -> Tensor:
        """The two terms of each stratum, ``(K, 2, B)``."""
        return terms.reshape(len(self.sizes), 2, -1)


@attrs.frozen(kw_only=True)
class Bound:
    """An upper bound of ``-log p(generated | known)`` of each sample, in nats, float64.

    Attributes:
        log_snr: Log-SNR in the middle of each stratum of steps, ``(K,)``.
        prior: ``L_prior`` by group, ``(B,)`` each.
        diffusion: Sum of ``L_t`` over each stratum by group, ``(K, B)`` each.
        variance: Of the sum of all ``L_t``, from the choice of steps alone, ``(B,)``; 0 where all were computed.
        reconstruction: ``L_recon`` by modality, ``(B,)`` each; 0 where a sample lacks it.
        entries: Numbers that are generated in each sample, ``(B,)``.
    """

    log_snr: Tensor
    prior: Mapping[Group, Tensor]
    diffusion: Mapping[Group, Tensor]
    variance: Tensor
    reconstruction: Mapping[str, Tensor]
    entries: Tensor

    @cached_property
    def by_group(self) -> dict[Group, Tensor]:
        """Each group's share of the bound, ``(B,)`` each: all three terms."""
        return {
            group: self.prior[group]
            + self.diffusion[group].sum(dim=0)
            + sum((self.reconstruction[name] for name in group), torch.zeros_like(self.prior[group]))
            for group in self.prior
        }

    @property
    def total(self) -> Tensor:
        """The bound, ``(B,)``."""
        return torch.stack(list(self.by_group.values())).sum(dim=0)

    @property
    def bits_per_dimension(self) -> Tensor:
        """The bound in bits for each number that is generated, ``(B,)``."""
        return self.total / self.entries / math.log(2)

    def cpu(self) -> Bound:
        """The same on the host."""
        return Bound(
            log_snr=self.log_snr.cpu(),
            prior={group: x.cpu() for group, x in self.prior.items()},
            diffusion={group: x.cpu() for group, x in self.diffusion.items()},
            variance=self.variance.cpu(),
            reconstruction={name: x.cpu() for name, x in self.reconstruction.items()},
            entries=self.entries.cpu(),
        )


def log_snr_grid(process: ForwardProcess, steps: int, diffusion_steps: int) -> Tensor:
    """T log-SNRs evenly spaced from ``t = 1/diffusion_steps`` down to -13 in every channel, ``(T,)``, float64.

    On a grid even in t no number of steps closes the bound (method section 4).
    """
    ends = process.schedule.log_snr(torch.tensor([1 / diffusion_steps, 1.0], dtype=EXACT))
    least = LEAST_LOG_SNR - float(process.log_snr_shift().amax().clamp(min=0))
    return torch.linspace(float(ends[0]), max(float(ends[1]), least), steps, dtype=EXACT)


def groups_of(model: MultiModalDiffusion, known: Sequence[str] = ()) -> list[Group]:
    """What the bound can be split into: modalities that are not known, together where ``z_t`` adds them up.

    A modality that is not aggregated stands alone, and only ``L_recon`` has anything of it.
    """
    layout, carried = model.process.layout, [name for name in model.names if _carried(model, name)]
    groups: list[Group] = []
    for name in (name for name in model.names if name not in known):
        own = layout.slots[name]
        touching = [
            g for g in groups if name in carried and any(o in carried and _overlap(layout.slots[o], own) for o in g)
        ]
        groups = [g for g in groups if g not in touching] + [(*(n for g in touching for n in g), name)]
    return groups


def _carried(model: MultiModalDiffusion, name: str) -> bool:
    process = model.process
    return name == model.anchor or process.aggregator.carries(process.options[name])


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]


@attrs.frozen(kw_only=True)
class BoundEvaluator:
    """Computes the bound of a model in one direction.

    Attributes:
        model: The joint model, in evaluation mode.
        modalities: Its modalities, bound.
        known: Names of what is known; the bound is then that of all else, given this.
        steps: Which steps.
        batch_size: Rows of one call of the network; several steps of few samples share a call.
    """

    model: MultiModalDiffusion
    modalities: Mapping[str, Modality]
    known: tuple[str, ...] = ()
    steps: Steps
    batch_size: int = 256

    @torch.inference_mode()
    def bound(
        self,
        batch: Batch,
        random: torch.Generator,
        noise: Noise | None = None,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> Bound:
        """The bound of each sample of a batch, on the batch's device.

        What a sample lacks is no part of it: neither generated nor known.

        Args:
            batch: Values and what is present.
            random: Where steps and noise are drawn from.
            noise: Standard normal numbers ``(rows, C, H, W)``; by default from ``random``.
            progress: Called with the number of network calls' rows done, ``(n + 1) B`` in all.
        """
        draw = noise or (lambda shape: torch.randn(shape, generator=random, dtype=EXACT))
        sample = _Sample(self, batch)
        indices = self.steps.draw(len(batch), random)  # (n, B)
        terms: dict[Group, list[Tensor]] = {group: [] for group in sample.groups}
        at_once = max(1, self.batch_size // len(batch))
        for start in range(0, len(indices), at_once):
            rows = indices[start : start + at_once]
            for group, found in sample.step_terms(self.steps.log_snr, rows, draw).items():
                terms[group].append(found)
            progress(rows.numel())
        computed = {group: torch.cat(parts) for group, parts in terms.items()}  # (n, B)
        reconstruction = sample.reconstruction(self.steps.log_snr[0], draw)
        progress(len(batch))
        middle = [self.steps.log_snr[first - 1 : stop].mean() for first, stop in pairwise(self.steps.strata.tolist())]
        return Bound(
            log_snr=torch.stack(middle),
            prior=sample.prior(self.steps.log_snr[-1]),
            diffusion={group: self.steps.sums(found) for group, found in computed.items()},
            variance=self.steps.variance(torch.stack(list(computed.values())).sum(dim=0)),
            reconstruction=reconstruction,
            entries=sample.entries(),
        )


class _Sample:
    """Some samples, encoded once, and the terms of their bound."""

    def __init__(self, evaluator: BoundEvaluator, batch: Batch) -> None:
        self.model, self.modalities = evaluator.model, evaluator.modalities
        self.batch, self.count = batch, len(batch)
        self.groups = groups_of(self.model, evaluator.known)
        self.unknown = [name for group in self.groups for name in group]
        self.device = next(iter(batch.values.values())).device
        # What the network is given keeps its precision
        self.encodings = self.model.encode(batch.values, batch.present)
        self.exact = {name: e.to(EXACT) for name, e in self.encodings.items()}
        self.known_encodings = {name: self.encodings[name] for name in evaluator.known}
        self.known_flags = {name: batch.present[name] for name in evaluator.known}
        self.precision = next(iter(self.encodings.values())).dtype

    def level(self, log_snr: Tensor) -> NoiseLevel:
        return self.model.process.level_at(log_snr).to(self.device)

    def estimate(self, z_t: Tensor, level: NoiseLevel, repeats: int) -> Estimate:
        """The network's answer at points ``(repeats B, C, H, W)``."""
        near = level.to(dtype=self.precision)
        known = {name: e.repeat(repeats, 1, 1, 1) for name, e in self.known_encodings.items()}
        flags = {name: has.repeat(repeats) for name, has in self.known_flags.items()}
        missing = {name: ~has.repeat(repeats) for name, has in self.batch.present.items()}
        z = z_t.to(self.precision)
        return cast("Estimate", self.model(z, near, self.model.context(z, known, flags, missing)))

    def differences(self, z_t: Tensor, level: NoiseLevel, encodings: Encodings, repeats: int) -> dict[str, Tensor]:
        """``e_i - ê_i`` of what is to be generated, ``(repeats B, c, H, W)`` each; 0 where a sample lacks it."""
        estimate = self.estimate(z_t, level, repeats)
        known = {name: encodings[name] for name in self.known_encodings}
        present = {name: has.repeat(repeats) for name, has in self.batch.present.items()}
        means = self.model.posterior_means(estimate, z_t, level, known, present=present)
        return {name: (encodings[name] - means[name]) * present[name][:, None, None, None] for name in self.unknown}

    def step_terms(self, log_snr: Tensor, steps: Tensor, draw: Noise) -> dict[Group, Tensor]:
        """``L_t`` by group for steps ``(m, B)``, indices of ``log_snr``: ``(m, B)`` each.

        ``L_t = || D_s - (a_{t|s} s_s^2 / s_t^2) D_t ||^2 / (2 st^2)`` with ``s = t - 1``.
        """
        process, repeats = self.model.process, len(steps)
        later, earlier = (self.level(log_snr[index.flatten()]) for index in (steps, steps - 1))
        encodings = {name: e.repeat(repeats, 1, 1, 1) for name, e in self.exact.items()}
        marginal = process.marginal(encodings, later)
        z_t = marginal.sample(draw(marginal.mean.shape).to(self.device))
        off = self.differences(z_t, later, encodings, repeats)
        gain, std = posterior_gain(earlier, later), posterior_std(earlier, later)
        found = {}
        for group in self.groups:
            own = {name: off[name] for name in group}
            error = process.mean(own, earlier) - gain * process.mean(own, later)  # (m B, C, H, W)
            found[group] = (error / std).square().sum(dim=(1, 2, 3)).reshape(repeats, self.count) / 2
        return found

    def prior(self, log_snr: Tensor) -> dict[Group, Tensor]:
        """``KL(q(z_T | X) || N(m_T(known), I))`` by group, ``(B,)`` each.

        A group has the channels that it writes to; those of known modalities alone, and free ones, cost nothing.
        """
        level = self.level(log_snr.expand(self.count))
        variance = level.sigma**2  # (B, C, 1, 1)
        height, width = self.model.process.layout.space[1:]
        found = {}
        for group in self.groups:
            mean = self.model.process.mean({name: self.exact[name] for name in group}, level)
            wide = torch.zeros_like(variance)
            for name in (name for name in group if _carried(self.model, name)):
                wide[:, self.model.process.layout.channels(name)] = 1
            spread = (wide * (variance - 1 - variance.log())).sum(dim=(1, 2, 3)) * height * width
            found[group] = (mean.square().sum(dim=(1, 2, 3)) + spread) / 2
        return found

    def reconstruction(self, log_snr: Tensor, draw: Noise) -> dict[str, Tensor]:
        """``-log p(x_i | z_1)`` of all but the anchor, and ``-log p(x_anchor | z_1, the others)``, ``(B,)`` each."""
        process, anchor = self.model.process, self.model.anchor
        level = self.level(log_snr.expand(self.count))
        marginal = process.marginal(self.exact, level)
        z_1 = marginal.sample(draw(marginal.mean.shape).to(self.device))
        estimate = self.estimate(z_1, level, 1)
        distributions = dict(estimate.distributions)
        if anchor in self.unknown:
            others = {name: e for name, e in self.exact.items() if name != anchor}
            mean = self.model.read_off(estimate.velocity.to(EXACT), z_1, level, others)
            values = self.model.anchor_values(mean)  # (B, ...), of another shape than the encoding where it is latents
            ratio = (level.sigma / level.alpha)[:, process.layout.channels(anchor).start]  # (B, 1, 1)
            std = ratio.reshape(-1, *[1] * (values.dim() - 1))
            distributions[anchor] = Independent(Normal(values, std.expand_as(values)), values.dim() - 1)
        return {
            name: -self._log_likelihood(name, distributions[name]) * self.batch.present[name] for name in self.unknown
        }

    def _log_likelihood(self, name: str, distribution: torch.distributions.Distribution) -> Tensor:
        values = self.batch.values[name]
        values = values.to(EXACT) if values.is_floating_point() else values
        return self.modalities[name].log_likelihood(distribution, values).to(EXACT)

    def entries(self) -> Tensor:
        """Numbers in each sample's unknown values, ``(B,)``."""
        counts = [self.batch.values[name][0].numel() * self.batch.present[name] for name in self.unknown]
        return torch.stack(counts).sum(dim=0).to(EXACT)
