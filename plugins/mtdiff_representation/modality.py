"""The representation modality. Letters for shapes: N samples, B batch, F features, D dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mtdiff_core import FieldSpec, Modality, UserError, component, option
from mtdiff_representation.pictures import PICTURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from mtdiff_core import Decoder, Encoder, FeatureShapes, Samples, Shape, Workshop
    from mtdiff_representation.extractors import Extractor

# The extractors, and for each the options that it alone reads: those it needs, and those it may have.
EXTRACTORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "self-trained": ((), ("steps", "width", "resolution", "flip")),
    "torchvision": (("network",), ("weights", "download")),
    "timm": (("network",), ("weights", "download")),
    "precomputed": (("features",), ()),
}


@component
class Representation(Modality):
    """What a network makes of a picture: its features, whitened by PCA to a few dimensions.

    The network and the whitening are settled on the training split before the model is built, and kept with the model.
    Model values are float32 ``(B, D)``, each dimension of mean 0 and variance 1 on the training split, those that
    varied most among the features first.
    """

    example: ClassVar[str] = "photo.png"

    extractor: str = option("self-trained", help="where features come from", choices=tuple(EXTRACTORS))
    dimensions: int = option(16, help="length of the vector: so many principal components", minimum=1, maximum=4096)
    steps: int = option(200, help="self-trained: training steps of the network", minimum=1)
    width: int = option(32, help="self-trained: the network's channels; it has four times as many features", minimum=4)
    resolution: int = option(
        32, help="self-trained: pixels that the network sees; larger pictures are shrunk to it", minimum=8
    )
    flip: bool = option(False, help="self-trained: a picture and its mirror image are to mean the same")
    network: str = option("", help='torchvision, timm: name of the network, such as "resnet18"')
    weights: str = option("", help="torchvision, timm: a safetensors file of the network's weights")
    download: bool = option(False, help="torchvision, timm: download the network's published weights, once")
    features: str = option("", help="precomputed: a file that mtdiff_representation.features_file wrote")
    components: int = option(
        64,
        help="normal distributions in the mixture that vectors are taken to come from before anything is seen; fewer "
        "where there are not eight vectors for each",
        minimum=1,
        maximum=4096,
    )
    hidden: int = option(128, help="width of the head's hidden layers", minimum=1, maximum=65536)
    dropout: float = option(0.1, help="dropout of what the head reads, in training", minimum=0, maximum=0.9)
    codes: str = option(
        "patches",
        help="how a dimension is written: patches = in a rectangle of its own, which networks read most easily; "
        "spread = over all pixels in fine detail, which looks least like a picture in a shared space",
        choices=("patches", "spread"),
    )
    code_seed: int = option(0, help="spread: names the set of codes, one for each dimension", minimum=0)

    def __attrs_post_init__(self) -> None:
        """Options that go together; ``ValueError`` names those that do not."""
        needed, allowed = EXTRACTORS[self.extractor]
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"{name}: the extractor {self.extractor!r} needs it ({self.options()[name].help})")
        for other, groups in EXTRACTORS.items():
            for name in (name for group in groups for name in group if name not in (*needed, *allowed)):
                if getattr(self, name) != self.options()[name].default:
                    raise ValueError(f"{name}: is read by the extractor {other!r}, not by {self.extractor!r}")
        if "weights" in allowed and bool(self.weights) == self.download:
            raise ValueError(f"the extractor {self.extractor!r} needs either weights = FILE or download = true")

    def check(self, spec: FieldSpec) -> None:
        """What is represented is a picture."""
        PICTURES.check(spec)

    def fit(self, samples: Samples, field: str, workshop: Workshop) -> Mapping[str, Tensor]:
        """The network, as far as it has to be kept, the whitening of its features, and how white vectors lie."""
        from mtdiff_representation.mixture import Mixture
        from mtdiff_representation.whitening import Whitening

        learnt = self.features_of.learn(samples, field, workshop)
        features, present = self.features_of.of_split(samples, field, learnt, workshop)
        whitening = Whitening.fit(features[present], self.dimensions)
        prior = Mixture.fit(whitening(features[present]), self.components)
        return {**learnt, **whitening.state(), **prior.state()}

    def derive(self, samples: Samples, field: str, workshop: Workshop) -> Tensor:
        """White vectors ``(N, D)``."""
        features, _ = self.features_of.of_split(samples, field, self.state, workshop)
        return self._whitened(features)

    def parse(self, text: str) -> Tensor:
        """A picture file, or a folder of them: what the network makes of them."""
        pictures = PICTURES.bind(self.spec).parse(text)  # float32 -1..1, (n, C, H, W)
        return self._whitened(self.features_of.of_pictures(pictures, self.state))

    @property
    def features_of(self) -> Extractor:
        """The extractor that the options describe."""
        from mtdiff_representation.extractors import make_extractor

        return make_extractor(self)

    def _whitened(self, features: Tensor) -> Tensor:
        from mtdiff_representation.whitening import Whitening

        return Whitening.from_state(self.state)(features)

    def encoder(self, slot: Shape) -> Encoder:
        """Fixed orthogonal codes, one for each dimension."""
        from mtdiff_core.codecs import VectorEncoder

        return VectorEncoder(self._codes(slot))

    def decoder(self, slot: Shape, features: FeatureShapes) -> Decoder:
        """A mixture, by Bayes' rule from the slot, the features, and how the training vectors lie."""
        from mtdiff_representation.codec import VectorHead
        from mtdiff_representation.mixture import Mixture

        fitted = "prior.mean" in self.state
        prior = Mixture.from_state(self.state) if fitted else Mixture.standard(self.dimensions)
        return VectorHead(features, self.hidden, self.dropout, self._codes(slot), prior)

    def _codes(self, slot: Shape) -> Tensor:
        from mtdiff_core.codecs import fixed_codes
        from mtdiff_representation.codec import patch_codes

        channels, height, width = slot
        if self.dimensions > channels * height * width:
            raise UserError(
                f"{self.dimensions} dimensions have no orthogonal codes in a slot of shape {tuple(slot)}",
                "dimensions",
                f"use {channels * height * width} or fewer, or larger pictures",
            )
        if self.codes == "patches":
            return patch_codes(self.dimensions, slot)
        return fixed_codes(self.dimensions, slot, self.code_seed)

    def prepare(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """White vectors as they were derived."""
        return values

    def natural(self, values: Tensor) -> Tensor:
        """White vectors, float32 ``(B, D)``."""
        return values.float()

    def render(self, values: Tensor) -> Tensor:
        """The leading dimensions as bars, uint8 ``(B, 3, h, w)``."""
        from mtdiff_representation.strip import draw_bars

        return draw_bars(values)
