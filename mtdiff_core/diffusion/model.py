"""The joint model: encoders, forward process, backbone, one head per modality.

Letters for shapes: B batch, C channels of the diffusion space, c channels of one modality's slot, H W height and width,
N modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mtdiff_core.codecs import group_norm, zero_init
from mtdiff_core.interfaces.backbone import Context, ContextShape
from mtdiff_core.interfaces.codec import Decoder, Encoder, InvertibleEncoder, NoisySlot
from mtdiff_core.registry.results import in_name_of, instance_of

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from mtdiff_core.diffusion.forward import Encodings, ForwardProcess, NoiseLevel
    from mtdiff_core.interfaces.backbone import Backbone, Features
    from mtdiff_core.interfaces.modality import Modality

# Of a slot, for what divides by it: far below that of the last step of any sampler.
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the network says about ``X``, given ``z_t``.

    Attributes:
        velocity: ``v^``, the prediction of ``a_t eps - s_t e_anchor``, in the anchor's slot, ``(B, c, H, W)``.
        distributions: ``p(x_i | z_t)`` for every modality but the anchor.
    """

    velocity: Tensor
    distributions: Mapping[str, Distribution]


class VelocityHead(nn.Module):
    """The shared-space head: features to ``v^``. Starts at 0, so that the first predictions are finite and calm."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(features)
        self.conv = zero_init(nn.Conv2d(features, channels, 3, padding=1))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Features ``(B, F, H, W)`` to a velocity ``(B, c, H, W)``."""
        return cast("Tensor", self.conv(nn.functional.silu(self.norm(feature_map))))


class MultiModalDiffusion(nn.Module):
    """``p(X)`` as a diffusion model over one space that all modalities share (method sections 1 to 3).

    Args:
        modalities: The modalities by name, bound to the fields they read.
        process: The forward process; its layout names the same modalities.
        backbone: The shared network's options.
        observes: Whether the network is given what is known as context ("observe", method section 5).
        told: Names of the modalities that it is given so; by default all. Layers that read others never learn anything.
        reveal: Names of the modalities that are derived from the anchor's own field.

    Raises:
        UserError: A modality or the backbone cannot work in this space.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        process: ForwardProcess,
        backbone: Backbone,
        *,
        observes: bool = False,
        told: Collection[str] | None = None,
        reveal: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.process, self.observes, self.reveal = process, observes, frozenset(reveal)
        self.told = frozenset(modalities if told is None else told)
        self._is_compiled = False
        layout, shapes = process.layout, backbone.feature_shapes(process.layout.space)
        channels = sum(layout.slot_shape(name)[0] for name in modalities) if observes else 0
        flags = len(modalities) * (2 if observes else 1)
        with in_name_of(backbone, "backbone"):
            network = backbone.build(layout.space, ContextShape(channels=channels, flags=flags))
            self.backbone = instance_of(network, nn.Module, "its network")
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for name, modality in modalities.items():
            slot, base = layout.slot_shape(name), InvertibleEncoder if name == self.anchor else Encoder
            with in_name_of(modality, f"modalities.{name}"):
                self.encoders[name] = instance_of(modality.encoder(slot), base, "its encoder")
        for name, modality in modalities.items():
            slot = layout.slot_shape(name)
            with in_name_of(modality, f"modalities.{name}"):
                if name != self.anchor:
                    self.decoders[name] = instance_of(modality.decoder(slot, shapes), Decoder, "its decoder")
        self.velocity = VelocityHead(shapes.map[0], layout.slot_shape(self.anchor)[0])

    @property
    def anchor(self) -> str:
        """Name of the modality that is encoded one-to-one."""
        return self.process.anchor

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all modalities, in the order of the recipe."""
        return tuple(self.encoders)

    def encoder(self, name: str) -> Encoder:
        """The encoder of one modality."""
        return cast("Encoder", self.encoders[name])

    def decoder(self, name: str) -> Decoder:
        """The decoder of one modality other than the anchor."""
        return cast("Decoder", self.decoders[name])

    def compile_backbone(self) -> None:
        """Compile the backbone, once for batches of any size: those of previews and judges differ."""
        self.backbone.compile()
        self._is_compiled = True

    def record(
        self,
        values: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        join: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        """Let every decoder take note of a training batch (``Decoder.record``).

        Args:
            values: Model values by modality, ``(B, ...)`` each.
            present: Which samples have them, bool ``(B,)`` each.
            join: Adds the rows that other processes have of the batch.
        """
        for name in self.decoders:
            decoder = self.decoder(name)
            if type(decoder).record is not Decoder.record:
                decoder.record(join(values[name]), join(present[name]))

    def encode(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """``e_i = E_i(x_i)`` for each of the given values, ``(B, c, H, W)`` each.

        Args:
            values: Model values by modality.
            present: Which samples have it, bool ``(B,)`` by modality; the encodings of others are 0.
        """
        encodings = {name: self.encoder(name)(x) for name, x in values.items()}
        if present is not None:
            encodings = {name: e * present[name][:, None, None, None] for name, e in encodings.items()}
        return encodings

    def context(
        self,
        z_t: Tensor,
        encodings: Encodings,
        known: Mapping[str, Tensor] | None = None,
        missing: Mapping[str, Tensor] | None = None,
    ) -> Context:
        """What the network is told besides ``z_t`` (method section 5).

        Args:
            z_t: ``(B, C, H, W)``, or any tensor of its shape.
            encodings: At least those of what is known, ``(B, c, H, W)`` each.
            known: Which samples are given a modality, bool ``(B,)`` each; by default every sample is given all of
                ``encodings``. Models that do not observe are not told, nor is any of what is not ``told``.
            missing: Which samples lack a modality, bool ``(B,)`` each; by default none does.
        """
        everywhere = torch.ones(len(z_t), dtype=torch.bool, device=z_t.device)
        known = dict.fromkeys(encodings, everywhere) if known is None else known
        known = {name: where for name, where in known.items() if name in self.told}
        flags = [(missing or {}).get(name, ~everywhere) for name in self.names]
        observed = [z_t[:, :0]]
        if self.observes:
            flags += [known.get(name, ~everywhere) for name in self.names]
            observed += [
                encodings[name] * known[name][:, None, None, None]  # (B, c, H, W)
                if name in known
                else torch.zeros_like(z_t[:, self.process.layout.channels(name)])
                for name in self.names
            ]
        return Context(observed=torch.cat(observed, dim=1), flags=torch.stack(flags, dim=1).to(z_t.dtype))

    def forward(self, z_t: Tensor, level: NoiseLevel, context: Context) -> Estimate:
        """One call of the backbone and of every head.

        Args:
            z_t: Noisy points, ``(B, C, H, W)``.
            level: Their noise levels.
            context: What else the network is told of them.
        """
        return self.network(z_t, level.log_snr, context, self.noisy_slots(z_t, level, context))

    def network(self, z_t: Tensor, log_snr: Tensor, context: Context, slots: Mapping[str, NoisySlot]) -> Estimate:
        """The layers alone: the backbone and every head, given all that they read.

        Args:
            z_t: Noisy points, ``(B, C, H, W)``.
            log_snr: The schedule's log-SNR, ``(B,)``.
            context: What else the backbone is told of them.
            slots: What ``z_t`` itself says, see :meth:`noisy_slots`.
        """
        if self._is_compiled:
            for tensor in (z_t, log_snr, context.observed, context.flags):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        features: Features = self.backbone(z_t, log_snr, context)
        return Estimate(
            velocity=self.velocity(features.map),
            distributions={name: self.decoder(name)(features, slots[name]) for name in self.decoders},
        )

    def noisy_slots(self, z_t: Tensor, level: NoiseLevel, context: Context) -> dict[str, NoisySlot]:
        """What ``z_t`` itself says of every modality that is decoded."""
        missing, known = context.flags[:, : len(self.names)], context.flags[:, len(self.names) :]
        around = self.process.variances_around(level)
        variances = {name: around[name].clamp(min=LEAST_VARIANCE) for name in self.names}
        clarity = []
        for name, variance in variances.items():
            signal = level.coefficient[name] ** 2
            clarity.append((signal / (signal + variance)).mean(dim=(1, 2, 3)))  # (B,)
        seen = torch.stack(clarity, dim=1).to(z_t.dtype) * (1 - missing)  # (B, modalities)
        seen = torch.maximum(seen, known) if self.observes else seen
        return {
            name: NoisySlot(
                z=z_t[:, self.process.layout.channels(name)],
                coefficient=level.coefficient[name],
                variance=variances[name],
                clarity=torch.cat([seen[:, :index], seen[:, index + 1 :]], dim=1).amax(dim=1),
            )
            for index, name in enumerate(self.names)
            if name != self.anchor
        }

    def posterior_means(
        self,
        estimate: Estimate,
        z_t: Tensor,
        level: NoiseLevel,
        known: Encodings | None = None,
        *,
        draw_discrete: bool = False,
        present: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """``ê_i = E[e_i | z_t]`` for every modality, ``(B, c, H, W)`` each, as precise as ``z_t`` (method section 3).

        Args:
            estimate: The network's answer at ``z_t``.
            z_t: ``(B, C, H, W)``.
            level: Its noise level.
            known: True encodings of what is known; they stand for themselves ("replace").
            draw_discrete: Encode a draw from a discrete ``p(x_i | z_t)`` in place of its mean.
            present: Which samples have a modality, bool ``(B,)`` each: of one that they lack there is nothing in
                ``z_t``. By default they have all.
        """
        known = known or {}
        means: dict[str, Tensor] = {}
        for name, distribution in estimate.distributions.items():
            if name in known:
                means[name] = known[name]
            elif draw_discrete and is_discrete(distribution):
                means[name] = self.encoder(name)(distribution.sample()).to(z_t.dtype)
            else:
                means[name] = self.encoder(name).expected(distribution).to(z_t.dtype)
            if present is not None:
                means[name] = means[name] * present[name][:, None, None, None]
        anchor = known.get(self.anchor)
        velocity = estimate.velocity.to(z_t.dtype)
        means[self.anchor] = self.read_off(velocity, z_t, level, means) if anchor is None else anchor
        return means

    def read_off(self, velocity: Tensor, z_t: Tensor, level: NoiseLevel, others: Encodings) -> Tensor:
        """``ê_anchor = (a_t z~ - s_t v) / (a_t^2 + s_t^2)`` with ``z~ = z_t - sum_{i != anchor} c_t^i ê_i``."""
        own = self.process.layout.channels(self.anchor)
        alpha, sigma = level.alpha[:, own], level.sigma[:, own]
        rest = (z_t - self.process.mean(others, level))[:, own] if others else z_t[:, own]
        return (alpha * rest - sigma * velocity) / (alpha**2 + sigma**2)

    def values(self, encodings: Encodings, estimate: Estimate) -> dict[str, Tensor]:
        """Model values of all modalities at the end of sampling.

        The anchor's encoding is inverted; the others are the modes of their distributions, since, as in DDPM,
        the last step adds no noise.
        """
        modes = {name: distribution.mode for name, distribution in estimate.distributions.items()}
        anchor = self.anchor_values(encodings[self.anchor])
        return {name: anchor if name == self.anchor else modes[name] for name in self.names}

    def anchor_values(self, encodings: Tensor) -> Tensor:
        """The anchor's values with these encodings ``(B, c, H, W)``."""
        return cast("InvertibleEncoder", self.encoders[self.anchor]).invert(encodings)


def is_discrete(distribution: Distribution) -> bool:
    """Whether values under this distribution come from a countable set."""
    support = distribution.support
    return bool(support is not None and support.is_discrete)
