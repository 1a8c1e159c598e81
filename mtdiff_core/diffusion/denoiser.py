"""What samplers ask: given a noisy point, what is everything? With what is known put in, and guidance, if any.

Letters for shapes: B batch, C channels of the diffusion space, c channels of one modality's slot, H W height and width.
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

    from mtdiff_core.diffusion.forward import Encodings, ForwardProcess, NoiseLevel
    from mtdiff_core.diffusion.model import Estimate, MultiModalDiffusion
    from mtdiff_core.interfaces.backbone import Context

# Below this signal level the anchor hardly moves z_t, and what guidance would ask of it, over a_t, explodes.
LEAST_GUIDED_ALPHA = 0.01


@attrs.frozen(kw_only=True)
class Guidance:
    """How strongly what is known pulls on the anchor, beyond what the network does by itself.

    Attributes:
        scale: w; 0 is none.
        by_context: Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), for models that observe: away
            from the answer of the same network that is not told what is known. Otherwise self-guidance: along the
            gradient of the model's own decoders (method section 3; Dhariwal and Nichol 2021, arXiv 2105.05233,
            algorithm 2).
    """

    scale: float = 0.0
    by_context: bool = False

    @property
    def differentiates(self) -> bool:
        """Whether gradients of the network are needed."""
        return self.scale != 0 and not self.by_context


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Generated samples.

    Attributes:
        values: Model values of every modality, what was known included, ``(B, ...)`` each.
        distributions: For the modalities that were decoded, the last ``p(x_i | z)``.
    """

    values: Mapping[str, Tensor]
    distributions: Mapping[str, Distribution]


class Denoiser:
    """A model in one direction: everything that stays the same from step to step.

    Args:
        model: The joint model.
        known: Model values of what is known, ``(B, ...)`` each.
        noise: Where samples start from, standard normal, ``(B, C, H, W)``.
        guidance: How strongly what is known is followed.
    """

    def __init__(
        self, model: MultiModalDiffusion, known: Mapping[str, Tensor], noise: Tensor, guidance: Guidance | None = None
    ) -> None:
        self.model, self.known, self.noise, self.guidance = model, known, noise, guidance or Guidance()
        self.encodings = model.encode(known)
        self.context: Context = model.context(noise, self.encodings)
        self.blind_context: Context = model.context(noise, {})
        shown = {name: model.encoder(name).reveals(x) for name, x in known.items() if name in model.reveal}
        self.revealed = {name: where for name, where in shown.items() if where is not None}

    @property
    def process(self) -> ForwardProcess:
        """The model's forward process."""
        return self.model.process

    def levels(self, times: Tensor) -> list[NoiseLevel]:
        """The levels at each time, of every sample, where and as precise as the noise."""
        of_all = self.process.level(times).to(self.noise.device, self.noise.dtype)
        return [of_all.expand(row, len(self.noise)) for row in range(len(times))]

    def start(self, level: NoiseLevel) -> Tensor:
        """The first point, at the highest noise, ``(B, C, H, W)``."""
        if not self.encodings:
            return level.sigma * self.noise
        return self.process.marginal(self.encodings, level).sample(self.noise)

    def __call__(
        self, z_t: Tensor, level: NoiseLevel, *, draw_discrete: bool = False
    ) -> tuple[dict[str, Tensor], Estimate]:
        """``ê_i`` for every modality, ``(B, c, H, W)`` each, and the network's answer that they come from."""
        estimate = self.model(z_t, level, self.context)
        means = self.model.posterior_means(estimate, z_t, level, self.encodings, draw_discrete=draw_discrete)
        anchor = self.model.anchor
        if anchor not in self.known:
            if self.guidance.scale and self.known:
                means[anchor] = means[anchor] + self.guidance.scale * self._pull(z_t, level, means)
            for name, where in self.revealed.items():
                means[anchor] = torch.where(where, self.encodings[name], means[anchor])
        return means, estimate

    def _pull(self, z_t: Tensor, level: NoiseLevel, means: Encodings) -> Tensor:
        """What a guidance of scale 1 adds to ``ê_anchor``, ``(B, c, H, W)``."""
        if not self.guidance.by_context:
            return self._towards_known(z_t, level)
        blind = self.model(z_t, level, self.blind_context)
        anchor = self.model.anchor
        unguided = self.model.read_off(blind.velocity, z_t, level, {n: e for n, e in means.items() if n != anchor})
        return means[anchor] - unguided

    def _towards_known(self, z_t: Tensor, level: NoiseLevel) -> Tensor:
        """``(s_t^2 / a_t) grad_z log p(x_known | z_t)`` in the anchor's slot.

        ``eps^ <- eps^ - s_t grad`` at a fixed ``z_t = m^_t + s_t eps^`` moves ``m^_t`` by ``s_t^2 grad``. The network
        that is asked is not told what is known, or it would have nothing left to infer.
        """
        with torch.enable_grad():
            point = z_t.detach().requires_grad_()
            distributions = self.model(point, level, self.blind_context).distributions
            decoded = [distributions[name].log_prob(x).sum() for name, x in self.known.items() if name in distributions]
            (gradient,) = torch.autograd.grad(torch.stack(decoded).sum(), point)
        own = self.process.layout.channels(self.model.anchor)
        alpha, sigma = level.alpha[:, own], level.sigma[:, own]
        pull = sigma**2 / alpha.clamp(min=LEAST_GUIDED_ALPHA) * gradient[:, own]
        return torch.where(alpha >= LEAST_GUIDED_ALPHA, pull, 0)

    def finish(self, means: Encodings, estimate: Estimate) -> Sampled:
        """Values at time 0: what is known exactly as it came, the rest read from the last estimate."""
        distributions = {name: d for name, d in estimate.distributions.items() if name not in self.known}
        return Sampled(values={**self.model.values(means, estimate), **self.known}, distributions=distributions)
