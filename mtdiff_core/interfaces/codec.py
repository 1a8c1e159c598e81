"""Encoder and Decoder: the two ways between a modality's values and the shared diffusion space.

Letters for shapes: B batch; ``(c, H, W)`` the modality's slot, that is, the channels of the diffusion space
that its encoding is added to.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from mtdiff_core.interfaces.backbone import Features


class Encoder(nn.Module):
    """``E_i``: a modality's values into its slot of the diffusion space (method section 1)."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Encode values ``(B, ...)`` as ``e_i = E_i(x_i)``, shape ``(B, c, H, W)``, about unit RMS."""

    @abstractmethod
    def expected(self, distribution: Distribution) -> Tensor:
        """The posterior-mean contribution ``ê_i = E[e_i]`` under ``p(x_i | z_t)``, shape ``(B, c, H, W)``.

        For a distribution that is certain of ``x`` this equals ``forward(x)``.
        """

    def reveals(self, values: Tensor) -> Tensor | None:
        """Where the encoding of these values is the anchor's own, bool ``(B, 1, H, W)``; None if it never is.

        Asked only of a modality that reads the same field as the anchor: its values are then derived from the anchor's,
        and samplers keep the anchor there exactly as it was given.
        """
        return None


class InvertibleEncoder(Encoder):
    """A one-to-one encoder. Only a modality with such an encoder can be the anchor."""

    @abstractmethod
    def invert(self, encoding: Tensor) -> Tensor:
        """The values whose encoding this is: ``invert(forward(x)) == x``. Shape ``(B, ...)``."""


@dataclass(frozen=True, kw_only=True)
class NoisySlot:
    """What ``z_t`` itself says of one modality, before any network: its own slot, and how much else is in there.

    Attributes:
        z: The slot's channels of ``z_t``, ``(B, c, H, W)``.
        coefficient: ``c_t^i``, ``(B, c, 1, 1)``.
        variance: ``s_t^2``, plus ``(c_t^j)^2`` of every other modality in these channels: what hides this one if the
            others, of unit RMS, are taken for noise. ``(B, c, 1, 1)``, above 0.
        clarity: How clearly the network sees the clearest of the other modalities, ``(B,)``, 0 to 1: its signal's share
            of the power, ``c^2 / (c^2 + variance)``; 1 where the network is told what it is. What can be inferred from
            the others, in nats, falls to 0 as this does.
    """

    z: Tensor
    coefficient: Tensor
    variance: Tensor
    clarity: Tensor

    @property
    def evidence(self) -> Tensor:
        """``c z / variance``, ``(B, c, H, W)``.

        ``log p(z | e) = <evidence, e> - c^2 |e|^2 / (2 variance)``, up to a constant, where all else is noise: exact at
        the highest noise, where samplers settle what is discrete, and in a block of the modality's own.
        """
        return self.coefficient * self.z / self.variance

    def evidence_of(self, codes: Tensor) -> Tensor:
        """``<evidence, code>`` of each code ``(K, c, H, W)``: ``(B, K)``, float32 under autocast too.

        At little noise these are large numbers whose differences are small.
        """
        with torch.autocast(self.z.device.type, enabled=False):
            evidence: Tensor = torch.einsum("bchw,kchw->bk", self.evidence.float(), codes.float())
        return evidence


class Decoder(nn.Module):
    """A head on the shared features, for one modality."""

    @abstractmethod
    def forward(self, features: Features, slot: NoisySlot) -> Distribution:
        """``p(x_i | z_t)``, with ``batch_shape == (B,)``: ``log_prob(values)`` sums over a sample's entries.

        Args:
            features: What the shared network makes of ``z_t``.
            slot: What ``z_t`` itself says.
        """

    def record(self, values: Tensor, present: Tensor) -> None:
        """Take note of a training batch, for statistics that are better counted than learnt; nothing by default.

        Called once for each batch, and kept across resumes if what is noted lies in buffers.

        Args:
            values: True values, ``(B, ...)``.
            present: Which samples have one, bool ``(B,)``.
        """
        return
