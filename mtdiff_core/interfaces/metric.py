"""Metric: a figure of what a model generates. It says itself which directions it can judge.

A metric is asked once for each direction for its scorers. A scorer sees samples batch by batch, so that memory stays
bounded whatever their number is, and gives its figures at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import attrs

from mtdiff_core.interfaces.component import Component

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution

    from mtdiff_core.interfaces.dataset import Samples, Split
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.interfaces.workshop import Workshop

T = TypeVar("T")
Better = Literal["higher", "lower"]


@attrs.frozen(kw_only=True)
class Figure:
    """One number about samples in one direction, and all that is needed to read it.

    Attributes:
        name: What it is, such as ``"accuracy"``.
        of: Names of the modalities it is about.
        value: The number.
        interval: 95% interval (``mtdiff_core.intervals``). Of a number that is too large on average, as distances
            between distributions are, it allows for that, and need not hold ``value``.
        n: Samples it was computed from.
        better: Whether higher or lower values are better.
        baselines: The same number of something trivial or real, by what that is: ``{"commonest class": 0.1}``.
        features: Name of the feature extractor or judge that it depends on; empty if it depends on none.
        unit: Such as ``"dB"``; empty for a share or a plain number.
    """

    name: str
    of: tuple[str, ...]
    value: float
    interval: tuple[float, float]
    n: int
    better: Better
    baselines: Mapping[str, float] = attrs.field(factory=dict)
    features: str = ""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """Samples in one direction, in natural units, on the host.

    Attributes:
        values: Of every modality, what was known included, ``(B, ...)`` each.
        truth: What the data has in place of what was generated, where what is known was taken from it; of joint
            samples nothing. Values of samples that lack a modality are fillers.
        present: Which samples have a true value, bool ``(B,)``, for each modality in ``truth``.
        distributions: ``p(x_i | known)`` of what was generated, as one call of the network tells it; without those that
            it cannot tell so.
    """

    values: Mapping[str, Tensor]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)


class RealData(ABC):
    """The data that a model was trained on and is tested with.

    Attributes:
        workshop: Device, seed, cache and progress, for judges that have to be trained and features to be extracted.
    """

    workshop: Workshop

    @abstractmethod
    def samples(self, split: Split) -> Samples:
        """The data set's own fields, also those that no modality reads.

        Raises:
            MissingSplitError: There is no such split.
        """

    @abstractmethod
    def field(self, modality: str) -> str:
        """Name of the field that a modality reads."""

    @abstractmethod
    def batches(self, split: Split) -> Iterator[ScoredBatch]:
        """All samples of a split in order, as ``truth``; ``values`` are the same.

        Raises:
            MissingSplitError: There is no such split.
        """

    @abstractmethod
    def once(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives the first time that this key is asked for: for what scorers share, such as features."""


class Scorer(ABC):
    """Takes samples in one direction and gives figures of them."""

    @abstractmethod
    def update(self, batch: ScoredBatch) -> None:
        """Take a batch."""

    @abstractmethod
    def figures(self) -> list[Figure]:
        """The figures of all batches taken.

        Raises:
            UserError: They are too few for a figure that means anything.
        """


class Metric(Component, ABC):
    """Options of a metric that recipes and ``mtdiff evaluate`` can name.

    Modalities are told apart by ``Modality.table_kind``: ``"pictures"``, ``"labels"``, ``"maps"``, ``"vectors"``.

    Attributes:
        needs: What a direction must have for it, in words, for messages: ``"a picture that is generated"``.
        costly: Whether it is left out unless it is asked for by name, since it takes long or needs weights.
    """

    __slots__ = ()

    needs: ClassVar[str]
    costly: ClassVar[bool] = False

    @abstractmethod
    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """Scorers for one direction; none if it has nothing to say of it.

        Args:
            known: Names of the modalities that are given.
            generated: Names of all others.
            modalities: All modalities, bound.
            real: The real data.

        Raises:
            UserError: Weights are missing or do not fit, or the data cannot be read.
        """
