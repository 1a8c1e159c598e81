"""Metrics of a generated picture against its truth, where what is known says what it should look like."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from mtdiff_core import Metric, Modality, RealData, Scorer, Shape, component, option

if TYPE_CHECKING:
    from mtdiff_metrics.perceptual import Name

SMALLEST_FOR_SSIM = 11  # its window

Make = Callable[[str, tuple[str, ...]], Scorer]


@component
class ReconstructionMetric(Metric):
    """A metric of pairs of a generated picture and its truth."""

    needs: ClassVar[str] = "a picture that is generated from another picture, a masked picture or a class map"

    def scorers(
        self, known: tuple[str, ...], generated: tuple[str, ...], modalities: Mapping[str, Modality], real: RealData
    ) -> list[Scorer]:
        """One for each generated picture."""
        from mtdiff_metrics.data import kinds_of, natural_shapes
        from mtdiff_metrics.scorers.reconstruction import same_shape

        kinds, shapes = kinds_of(modalities, real), natural_shapes(real)
        if not any(kinds[name] in ("picture", "masked picture", "map") for name in known):
            return []
        pictures = [name for name in generated if kinds[name] == "picture" and self.judges(shapes[name])]
        if not pictures:
            return []
        make = self.maker(real)
        given = tuple(name for name in known if kinds[name] == "picture")
        return [make(name, same_shape(shapes, name, given)) for name in pictures]

    def judges(self, shape: Shape) -> bool:
        """Whether pictures of this shape have such a figure."""
        return True

    @abstractmethod
    def maker(self, real: RealData) -> Make:
        """What makes a scorer of a picture and of the known pictures of its shape."""


@component
class Psnr(ReconstructionMetric):
    """Peak signal-to-noise ratio of generated pictures, in dB."""

    def maker(self, real: RealData) -> Make:
        """Without more ado."""
        from mtdiff_metrics.scorers.reconstruction import PsnrScorer

        return lambda name, alike: PsnrScorer(name, alike, real)


@component
class Ssim(ReconstructionMetric):
    """Structural similarity of generated pictures with the true ones."""

    needs: ClassVar[str] = (
        "a picture of 11 pixels or more that is generated from another picture, a masked picture or a class map"
    )

    def judges(self, shape: Shape) -> bool:
        """Whether its window has room."""
        return min(shape[1:]) >= SMALLEST_FOR_SSIM

    def maker(self, real: RealData) -> Make:
        """Without more ado."""
        from mtdiff_metrics.scorers.reconstruction import SsimScorer

        return lambda name, alike: SsimScorer(name, alike, real)


@component
class Lpips(ReconstructionMetric):
    """Learned perceptual distance (LPIPS) of generated pictures to the true ones."""

    costly: ClassVar[bool] = True

    network: str = option(
        "alex", help="the network that looks: alex = AlexNet, vgg = VGG-16, squeeze = SqueezeNet 1.1",
        choices=("alex", "vgg", "squeeze"),
    )  # fmt: skip
    weights: str = option(
        help="a safetensors file of that network's weights as torchvision has them; nothing is downloaded"
    )

    def maker(self, real: RealData) -> Make:
        """With the network."""
        from mtdiff_metrics.perceptual import PerceptualDistance
        from mtdiff_metrics.scorers.reconstruction import LpipsScorer

        distance = real.once(
            f"metrics: LPIPS {self.network} {self.weights}",
            lambda: PerceptualDistance(cast("Name", self.network), self.weights, real.workshop.device),
        )
        return lambda name, alike: LpipsScorer(name, alike, real, distance)
