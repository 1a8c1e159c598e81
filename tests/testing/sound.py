"""Small components that keep every promise, for faults to be planted in."""

import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from mtdiff_core import Decoder, Encoder, Modality, UserError, component
from mtdiff_core.codecs import ConvolutionalGaussianDecoder, IdentityEncoder, fixed_codes


class Codes(Encoder):
    """A sum of codes, one for each number."""

    scale = 1.0

    def __init__(self, codes):
        super().__init__()
        self.keep(self.scale * codes / len(codes) ** 0.5)

    def keep(self, codes):
        self.register_buffer("codes", codes)

    def forward(self, values):
        return torch.einsum("bd,dchw->bchw", values, self.codes)

    def expected(self, distribution):
        return self.forward(distribution.mean)


class NumbersHead(Decoder):
    """A normal distribution for each number."""

    def __init__(self, features, count):
        super().__init__()
        self.layer = nn.Linear(features.pooled, 2 * count)

    def forward(self, features, slot):
        mean, log_std = self.layer(features.pooled).float().chunk(2, dim=1)
        return self.distribution(mean, log_std.clamp(-5, 5).exp())

    def distribution(self, mean, std):
        return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


@component
class Numbers(Modality):
    """A vector of three numbers."""

    codes = Codes
    head = NumbersHead

    def check(self, spec):
        if spec.shape != (3,) or spec.dtype != "float32":
            raise UserError(f"needs three numbers, not {spec}")

    def encoder(self, slot):
        return self.codes(fixed_codes(3, slot, seed=0))

    def decoder(self, slot, features):
        return self.head(features, 3)

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values

    def parse(self, text):
        try:
            numbers = torch.tensor([[float(word) for word in text.split(",")]])
        except ValueError as error:
            raise UserError(f"{text!r} is no list of numbers", hint="such as 1,2,3") from error
        if not numbers.isfinite().all():
            raise UserError(f"{text!r} is not finite", hint="such as 1,2,3")
        return numbers

    def describe(self, values, distribution=None):
        return [" ".join(f"{x:.1f}" for x in row) for row in values.tolist()]


class KindCodes(Encoder):
    """A code for each kind."""

    def __init__(self, codes):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, values):
        return self.codes[values]

    def expected(self, distribution):
        return torch.einsum("bk,kchw->bchw", self.weights(distribution), self.codes)

    def weights(self, distribution):
        return distribution.probs


class KindHead(Decoder):
    """A linear map of the pooled features."""

    def __init__(self, features, count):
        super().__init__()
        self.layer = nn.Linear(features.pooled, count)

    def forward(self, features, slot):
        return self.distribution(self.layer(features.pooled).float())

    def distribution(self, logits):
        return Categorical(logits=logits, validate_args=False)


@component
class Kinds(Modality):
    """One of four kinds."""

    codes = KindCodes
    head = KindHead

    def check(self, spec):
        if spec.shape or spec.dtype != "int64" or not spec.classes:
            raise UserError(f"needs a class, not {spec}")

    def encoder(self, slot):
        return self.codes(fixed_codes(len(self.spec.classes), slot, seed=0))

    def decoder(self, slot, features):
        return self.head(features, len(self.spec.classes))

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values

    def parse(self, text):
        if text not in self.spec.classes:
            raise UserError(f"no kind is called {text!r}")
        return torch.tensor([self.spec.classes.index(text)])

    def describe(self, values, distribution=None):
        return [self.spec.classes[index] for index in values.tolist()]


@component
class Plane(Modality):
    """A field of numbers, as it is."""

    one_to_one = True
    codes = IdentityEncoder

    def check(self, spec):
        if len(spec.shape) != 3 or spec.dtype != "float32":
            raise UserError(f"needs a field of numbers, not {spec}")

    def anchor_shape(self):
        return self.spec.shape

    def block_channels(self):
        return self.spec.shape[0]

    def encoder(self, slot):
        if slot[0] != self.spec.shape[0]:
            raise UserError("does not fit")
        return self.codes()

    def decoder(self, slot, features):
        return ConvolutionalGaussianDecoder(features, slot[0])

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values

    def parse(self, text):
        raise UserError("nobody writes fields")

    def render(self, values):
        return (values.clamp(0, 1) * 255).byte().expand(-1, 3, -1, -1)
