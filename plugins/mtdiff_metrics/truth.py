"""Metrics of generated labels, maps and vectors against their truth, where something is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mtdiff_core import Metric, Modality, RealData, Scorer, component, option


@component
class Accuracy(Metric):
    """Share of generated labels that are right."""

    needs: ClassVar[str] = "a label that is generated from something known"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated label."""
        from mtdiff_metrics.scorers.labels import AccuracyScorer

        return [AccuracyScorer(name, real) for name in _of_kind("labels", known, generated, modalities)]


@component
class CalibrationError(Metric):
    """Expected calibration error: how far p(label) is from how often the likeliest label is right."""

    needs: ClassVar[str] = "a label that is generated from something known, with its distribution"

    bins: int = option(15, help="bins of equal width that probabilities are sorted into", minimum=1, maximum=1000)

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated label."""
        from mtdiff_metrics.scorers.labels import CalibrationScorer

        return [CalibrationScorer(name, real, self.bins) for name in _of_kind("labels", known, generated, modalities)]


@component
class MeanIou(Metric):
    """Mean intersection over union of generated class maps with the true ones."""

    needs: ClassVar[str] = "a class map that is generated from something known"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated map."""
        from mtdiff_metrics.scorers.maps import MeanIouScorer

        names = _of_kind("maps", known, generated, modalities)
        return [MeanIouScorer(name, modalities[name], real) for name in names]


@component
class Retrieval(Metric):
    """Share of generated vectors whose nearest of a hundred true ones is their own."""

    needs: ClassVar[str] = "a vector that is generated from something known"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated vector."""
        from mtdiff_metrics.scorers.retrieval import RetrievalScorer

        return [RetrievalScorer(name) for name in _of_kind("vectors", known, generated, modalities)]


def _of_kind(
    table_kind: str, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality]
) -> list[str]:
    """Names of the generated modalities of a kind; none of joint samples, which have no truth."""
    return [name for name in generated if known and modalities[name].table_kind == table_kind]
