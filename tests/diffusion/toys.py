"""Small modalities and networks whose mathematics is known in closed form."""

import attrs
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from mtdiff_core import Backbone, Encoder, Features, FeatureShapes, FieldSpec, Modality, component
from mtdiff_core.codecs import IdentityEncoder
from mtdiff_core.diffusion.forward import ForwardProcess
from mtdiff_core.diffusion.model import MultiModalDiffusion
from mtdiff_core.interfaces.codec import Decoder

ANCHOR, OTHER = "x", "y"


class SignEncoder(Encoder):
    """Class 0 is -1, class 1 is +1, in one channel of one pixel."""

    def forward(self, values):
        return (2.0 * values - 1)[:, None, None, None].double()

    def expected(self, distribution):
        return (2 * distribution.probs[:, 1] - 1)[:, None, None, None]


class FromMap(Decoder):
    """Reads the parameters that an analytic network wrote into the feature map."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, features, slot):
        if self.kind == "class":
            return Categorical(probs=torch.stack([1 - features.pooled[:, 0], features.pooled[:, 0]], dim=1))
        mean, std = features.bottleneck[:, :1], features.bottleneck[:, 1:]
        return Independent(Normal(mean, std), 3)


@component
class Toy(Modality):
    """A scalar pixel, or a sign."""

    kind: str = attrs.field(default="pixel")
    one_to_one = True

    def check(self, spec):
        pass

    def anchor_shape(self):
        return self.spec.shape

    def encoder(self, slot):
        return IdentityEncoder() if self.kind == "pixel" else SignEncoder()

    def decoder(self, slot, features):
        return FromMap(self.kind)

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values

    def parse(self, text):
        raise NotImplementedError


class _Network(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, z, log_snr, context):
        return self.answer(z, log_snr)


@component
class Analytic(Backbone):
    """A backbone whose features are a given function of ``(z, log_snr)``; its map is the velocity itself."""

    answer: object = attrs.field()

    def feature_shapes(self, space):
        return FeatureShapes(map=space, bottleneck=space, pooled=1)

    def build(self, space, context):
        return _Network(self.answer)


def process(schedule, aggregator, options=None, anchor_shape=(1, 1, 1), others=(OTHER,)):
    """A forward process with the anchor and, by default, one other modality of one channel."""
    layout = aggregator.layout(ANCHOR, anchor_shape, dict.fromkeys(others, 1))
    options = options or {name: aggregator.ModalityOptions() for name in others}
    return ForwardProcess(schedule=schedule, aggregator=aggregator, layout=layout, anchor=ANCHOR, options=options)


def analytic_model(forward, answer, other_kind=None):
    """A model whose velocity and decoders say exactly what ``answer`` says."""
    spec = FieldSpec(shape=forward.layout.space[:1] + forward.layout.space[1:], dtype="float64")
    modalities = {ANCHOR: Toy().bind(spec)}
    if other_kind:
        modalities[OTHER] = Toy(kind=other_kind).bind(spec)
    model = MultiModalDiffusion(modalities, forward, Analytic(answer=answer))
    model.velocity = nn.Identity()
    return model.double().eval()


def features(velocity, mean=None, std=None, probability=None):
    """Features that carry a velocity, and a normal's or a class's parameters."""
    bottleneck = velocity if mean is None else torch.cat([mean, std.expand_as(mean)], dim=1)
    pooled = velocity.flatten(1)[:, :1] if probability is None else probability[:, None]
    return Features(map=velocity, bottleneck=bottleneck, pooled=pooled)
