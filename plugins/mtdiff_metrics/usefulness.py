"""Metrics of pictures together with what they are of: do they agree, and can a network learn from them?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from mtdiff_core import Metric, Modality, RealData, Scorer, component

if TYPE_CHECKING:
    from mtdiff_metrics.data import Kind


@component
class Agreement(Metric):
    """How far generated pictures show the label or class map that goes with them, in the eyes of the judge."""

    needs: ClassVar[str] = "a picture that is generated, and a label, or a class map of its size"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated picture with each label and map."""
        from mtdiff_metrics.data import kinds_of
        from mtdiff_metrics.judge import judge_of
        from mtdiff_metrics.scorers.agreement import LabelAgreementScorer, MapAgreementScorer

        kinds = kinds_of(modalities, real)
        return [
            LabelAgreementScorer(picture, name, judge_of(real, picture), real)
            if kinds[name] == "label"
            else MapAgreementScorer(picture, name, modalities[name], judge_of(real, picture), real)
            for picture, name in _pairs(generated, kinds, real)
        ]


@component
class TrainOnSynthetic(Metric):
    """What a network is worth on real test pictures that learnt from generated pictures and their labels or maps."""

    needs: ClassVar[str] = (
        "a picture that is generated together with a label, or a class map of its size, or from a label; "
        "and a test split"
    )
    costly: ClassVar[bool] = True

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated picture with each label and map; none where more than labels is known.

        What is known comes from the test split. Pictures made from parts of test pictures would give away what the
        network is tested on.
        """
        from mtdiff_metrics.data import kinds_of
        from mtdiff_metrics.scorers.synthetic import SyntheticScorer, has_test_split

        kinds = kinds_of(modalities, real)
        if any(kinds[name] != "label" for name in known) or not has_test_split(real):
            return []
        return [
            SyntheticScorer(picture, name, modalities[name], real) for picture, name in _pairs(generated, kinds, real)
        ]


def _pairs(generated: tuple[str, ...], kinds: Mapping[str, Kind], real: RealData) -> Iterator[tuple[str, str]]:
    """Each generated picture with each label, and with each map of its size, given or generated."""
    from mtdiff_metrics.data import label_fields, map_fields, natural_shapes

    shapes = natural_shapes(real)
    for picture in (name for name in generated if kinds[name] == "picture"):
        readable = {"label": label_fields(real), "map": map_fields(real, shapes[picture])}
        yield from ((picture, name) for name, kind in kinds.items() if real.field(name) in readable.get(kind, {}))
