"""Metrics of generated pictures as a whole, against the training split's. They need no truth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from mtdiff_core import Metric, Modality, RealData, Scorer, component, option

if TYPE_CHECKING:
    from mtdiff_metrics.extractors import Extractor

# What can look at pictures, and the options that it needs.
EXTRACTORS: dict[str, tuple[str, ...]] = {
    "judge": (),
    "inception": ("weights",),
    "torchvision": ("network", "weights"),
    "timm": ("network", "weights"),
}


@component
class FeatureMetric(Metric):
    """A metric of the features that a network sees in generated pictures."""

    needs: ClassVar[str] = "a picture that is generated"

    features: str = option(
        "judge",
        help="what looks at pictures: judge = a small network trained on the run's own training split; "
        "inception = Inception-v3, trained on ImageNet; torchvision, timm = any network of theirs",
        choices=tuple(EXTRACTORS),
    )
    network: str = option("", help='torchvision, timm: name of the network, such as "resnet18"')
    weights: str = option(
        "",
        help="a safetensors file of the network's weights, which is never downloaded; inception: torchvision's own, or "
        "torch-fidelity's",
    )

    def __attrs_post_init__(self) -> None:
        """Options that go together; ``ValueError`` names those that do not."""
        for name, what in (("network", "the name of a network"), ("weights", "a file; nothing is downloaded")):
            needed = name in EXTRACTORS[self.features]
            if needed and not getattr(self, name):
                raise ValueError(f"{name}: features = {self.features!r} needs {what}")
            if getattr(self, name) and not needed:
                readers = ", ".join(repr(one) for one, options in EXTRACTORS.items() if name in options)
                raise ValueError(f"{name}: is read with features = {readers}, not with {self.features!r}")

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated picture."""
        from mtdiff_metrics.data import kinds_of
        from mtdiff_metrics.extractors import extractor_of

        kinds = kinds_of(modalities, real)
        pictures = [name for name in generated if kinds[name] == "picture" and self.judges(real)]
        options = self.features, self.network, self.weights
        return [self.scorer(extractor_of(*options, name, real), name, real) for name in pictures]

    def judges(self, real: RealData) -> bool:
        """Whether there can be a figure with this data."""
        return True

    @abstractmethod
    def scorer(self, extractor: Extractor, modality: str, real: RealData) -> Scorer:
        """The scorer of one modality's pictures."""


@component
class FrechetDistance(FeatureMetric):
    """Frechet distance of the features of generated and training pictures (FID with features = "inception")."""

    def scorer(self, extractor: Extractor, modality: str, real: RealData) -> Scorer:
        """It keeps features."""
        from mtdiff_metrics.scorers.pictures import FrechetScorer

        return FrechetScorer(extractor, modality, real)


@component
class KernelDistance(FeatureMetric):
    """Kernel distance of the features of generated and training pictures (KID with features = "inception")."""

    def scorer(self, extractor: Extractor, modality: str, real: RealData) -> Scorer:
        """It keeps features."""
        from mtdiff_metrics.scorers.pictures import KernelScorer

        return KernelScorer(extractor, modality, real)


@component
class InceptionScore(FeatureMetric):
    """Inception score: whether each picture is clearly of one class, and all classes are there."""

    needs: ClassVar[str] = "a picture that is generated, and classes in the data or the network's own"

    def __attrs_post_init__(self) -> None:
        """As of others, and the network has to know classes."""
        super().__attrs_post_init__()
        if self.features == "timm":
            raise ValueError("features: networks of 'timm' are taken without classes, which this score is made of")

    def judges(self, real: RealData) -> bool:
        """Whether the extractor knows classes."""
        from mtdiff_metrics.data import label_fields

        return self.features != "judge" or bool(label_fields(real))

    def scorer(self, extractor: Extractor, modality: str, real: RealData) -> Scorer:
        """It keeps probabilities."""
        from mtdiff_metrics.scorers.pictures import InceptionScorer

        return InceptionScorer(extractor, modality, real)


@component
class PrecisionRecall(FeatureMetric):
    """Precision (do generated pictures lie among real ones?) and recall (is everything real generated?)."""

    k: int = option(3, help="how many neighbours the neighbourhood of a picture holds", minimum=1, maximum=100)

    def scorer(self, extractor: Extractor, modality: str, real: RealData) -> Scorer:
        """It keeps features."""
        from mtdiff_metrics.scorers.pictures import PrecisionRecallScorer

        return PrecisionRecallScorer(extractor, modality, real, self.k)


@component
class NearestTraining(Metric):
    """How far generated pictures are from the nearest training picture: far less than test pictures, and it copies."""

    needs: ClassVar[str] = "a picture that is generated"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated picture."""
        from mtdiff_metrics.data import kinds_of
        from mtdiff_metrics.scorers.pictures import NearestTrainingScorer

        kinds = kinds_of(modalities, real)
        return [NearestTrainingScorer(name, real) for name in generated if kinds[name] == "picture"]
