"""Aggregator: how encodings are summed into the mean of ``z_t``: ``m_t(X) = sum_i c_t^i e_i`` (method section 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from mtdiff_core.interfaces.component import Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mtdiff_core.interfaces.dataset import Shape


@attrs.frozen(kw_only=True)
class Layout:
    """The diffusion space and the channels of it that each modality writes to.

    Attributes:
        space: Shape ``(C, H, W)`` of the diffusion space.
        slots: For each modality the half-open channel range ``(start, stop)``. Ranges may coincide.
    """

    space: Shape
    slots: Mapping[str, tuple[int, int]]

    def channels(self, name: str) -> slice:
        """Channels of the space that modality ``name`` writes to."""
        return slice(*self.slots[name])

    def slot_shape(self, name: str) -> Shape:
        """Shape ``(c, H, W)`` of modality ``name``'s encodings."""
        start, stop = self.slots[name]
        return (stop - start, *self.space[1:])


class Aggregator(Component, ABC):
    """Options of a way to aggregate, and its coefficients.

    Attributes:
        ModalityOptions: A :func:`component` class: the keys that this aggregator adds to the table of every
            modality but the anchor, whose coefficient is ``a_t``.
    """

    __slots__ = ()

    ModalityOptions: ClassVar[type]

    @abstractmethod
    def layout(self, anchor: str, anchor_shape: Shape, block_channels: Mapping[str, int]) -> Layout:
        """Lay out the space.

        Args:
            anchor: Name of the anchor.
            anchor_shape: ``(C, H, W)`` of its encoding.
            block_channels: For every other modality the channels of a block of its own.
        """

    @abstractmethod
    def coefficient(self, options: Any, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``c_t^i`` of a modality other than the anchor, for levels ``a_t, s_t`` of any one shape.

        It is 0 wherever the signal ``a_t`` is 0, so that ``z_T`` is pure noise.
        """

    @abstractmethod
    def carries(self, options: Any) -> bool:
        """Whether ``z_t`` carries this modality at all, that is, whether ``c_t^i`` is ever other than 0."""

    def log_snr_shift(self, options: Any) -> float:
        """What is added to the log-SNR of this modality's own channels (method section 5)."""
        return 0.0
