"""For each check of the kit for modalities a modality that breaks one promise: this check finds it, no other does."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.distributions import Beta, Categorical, Independent, Normal, VonMises
from torch.nn import functional

from mtdiff_core import UserError, component
from mtdiff_core.codecs import IdentityEncoder, fixed_codes
from mtdiff_core.testing import ModalityKit
from tests.testing.planting import failing, names
from tests.testing.sound import Codes, KindCodes, KindHead, Kinds, Numbers, NumbersHead, Plane

FAULTS = {}


def only(check):
    """Register a fault that only this check may find."""

    def register(cls):
        FAULTS.setdefault(check, []).append(cls)
        return cls

    return register


@only("it is described")
@component
class Unnamed(Numbers):
    pass


class HostCodes(Codes):
    def keep(self, codes):
        self.codes = codes


@only("devices")
@component
class OnTheHost(Numbers):
    """Codes that stay behind when the model moves."""

    codes = HostCodes


class IdleHead(NumbersHead):
    def __init__(self, features, count):
        super().__init__(features, count)
        self.idle = nn.Parameter(torch.ones(2))


@only("gradients reach every parameter")
@component
class IdleParameter(Numbers):
    """A parameter that nothing reads."""

    head = IdleHead


class CutCodes(KindCodes):
    def __init__(self, codes):
        super().__init__(codes)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, values):
        return super().forward(values) * self.gain.detach()

    def expected(self, distribution):
        return super().expected(distribution) * self.gain.detach()


@only("gradients reach every parameter")
@component
class CutOff(Kinds):
    """A parameter of the encoder that no gradient reaches."""

    codes = CutCodes


@only("batch of one")
@component
class Squeezed(Numbers):
    """A sample alone loses its dimension."""

    def natural(self, values):
        return values.squeeze()


class MutualHead(NumbersHead):
    def distribution(self, mean, std):
        return super().distribution(mean - 0.01 * mean.mean(dim=0), std)


@only("batch of one")
@component
class Mutual(Numbers):
    """Samples of a batch change each other."""

    head = MutualHead


class ForgetfulHead(NumbersHead):
    def __init__(self, features, count):
        super().__init__(features, count)
        self.register_buffer("offset", torch.rand(count), persistent=False)

    def distribution(self, mean, std):
        return super().distribution(mean + self.offset, std)


@only("save and load")
@component
class Forgetful(Numbers):
    """What was drawn when it was built is not saved."""

    head = ForgetfulHead


class ShortCutHead(NumbersHead):
    def distribution(self, mean, std):
        return super().distribution(mean, std * 1.1 if torch.compiler.is_compiling() else std)


@only("it compiles")
@component
class ShortCut(Numbers):
    """Compiled, it says something else."""

    head = ShortCutHead


class ImpreciseHead(KindHead):
    def forward(self, features, slot):
        return self.distribution(self.layer(features.pooled))


@only("it works in bf16")
@component
class Imprecise(Kinds):
    """Probabilities in bf16."""

    head = ImpreciseHead


@only("shapes")
@component
class EntryByEntry(Numbers):
    """A likelihood for each number."""

    def log_likelihood(self, distribution, values):
        return distribution.base_dist.log_prob(values)


class HesitantCodes(KindCodes):
    def weights(self, distribution):
        return distribution.probs.clamp(max=0.8)


@only("encoder and decoder agree")
@component
class Hesitant(Kinds):
    """Never sure of anything."""

    codes = HesitantCodes


class LikeliestCodes(KindCodes):
    def weights(self, distribution):
        return nn.functional.one_hot(distribution.probs.argmax(dim=1), distribution.probs.shape[1]).float()


@only("expected is the mean of encodings")
@component
class Likeliest(Kinds):
    """The likeliest in place of the mean."""

    codes = LikeliestCodes


class LoudCodes(Codes):
    scale = 10.0


@only("unit rms")
@component
class Loud(Numbers):
    """Encodings of ten times the size."""

    codes = LoudCodes


class LossyIdentity(IdentityEncoder):
    def invert(self, encoding):
        return encoding.clamp(-0.9, 0.9)


@only("one to one encoders invert")
@component
class Lossy(Plane):
    """What is bright is not found again."""

    codes = LossyIdentity


@only("one to one encoders invert")
@component
class Presumptuous(Kinds):
    """It says that it can be the anchor."""

    one_to_one = True

    def anchor_shape(self):
        return (1, 8, 8)


class Unnormalised(Categorical):
    def log_prob(self, value):
        return super().log_prob(value) - 0.1


class UnnormalisedHead(KindHead):
    def distribution(self, logits):
        return Unnormalised(logits=logits, validate_args=False)


@only("log probabilities integrate to one")
@component
class TooLittle(Kinds):
    """Probabilities that add up to nine tenths."""

    head = UnnormalisedHead


class WideDraws(Normal):
    def sample(self, sample_shape=()):
        return Normal(self.loc, 2 * self.scale, validate_args=False).sample(sample_shape)


class WideHead(NumbersHead):
    def distribution(self, mean, std):
        return Independent(WideDraws(mean, std, validate_args=False), 1, validate_args=False)


@only("log probabilities integrate to one")
@component
class Wide(Numbers):
    """Draws that do not follow the density."""

    head = WideHead


@only("missing values")
@component
class Logarithms(Numbers):
    """Positive numbers, whose logarithm is taken: of what is missing too."""

    def prepare(self, values, generator):
        return values.log()

    def natural(self, values):
        return values.exp()

    def parse(self, text):
        return super().parse(text).log()


class CountingHead(KindHead):
    def __init__(self, features, count):
        super().__init__(features, count)
        self.register_buffer("counts", torch.zeros(count))

    def record(self, values, present):
        self.counts += nn.functional.one_hot(values, len(self.counts)).sum(dim=0)


@only("missing values")
@component
class Counting(Kinds):
    """What is missing is counted."""

    head = CountingHead


class OneCode(KindCodes):
    def __init__(self, codes):
        super().__init__(codes[:1].expand_as(codes).clone())


@only("it learns")
@component
class Alike(Kinds):
    """All kinds have one code."""

    codes = OneCode


class BlankMode(Normal):
    @property
    def mode(self):
        return torch.zeros_like(self.loc)


class BlankHead(NumbersHead):
    def distribution(self, mean, std):
        return Independent(BlankMode(mean, std, validate_args=False), 1, validate_args=False)


@only("it learns")
@component
class Blank(Numbers):
    """It answers 0, whatever it learnt."""

    head = BlankHead


@only("values keep their rows")
@component
class Doubled(Numbers):
    """Training values are of another type."""

    def augment(self, values, generator):
        return values.double()


@only("prepare is deterministic under its generator")
@component
class Unseeded(Numbers):
    """It draws from elsewhere."""

    def prepare(self, values, generator):
        return values + 1e-3 * torch.rand(values.shape)


@only("prepare is deterministic under its generator")
@component
class Relative(Numbers):
    """What a row becomes depends on its batch."""

    def prepare(self, values, generator):
        return values - 0.01 * values.mean(dim=0)


@only("prepare is deterministic under its generator")
@component
class InPlace(Numbers):
    """The data set's own values change."""

    def augment(self, values, generator):
        return values.mul_(1.1)


@only("parse rejects bad text")
@component
class Trusting(Numbers):
    """What is no number ends in a traceback."""

    def parse(self, text):
        return torch.tensor([[float(word) for word in text.split(",")]])


@only("parse rejects bad text")
@component
class Undiscerning(Numbers):
    """Every text that is no numbers is three zeros."""

    def parse(self, text):
        try:
            return super().parse(text)
        except UserError:
            return torch.zeros(1, 3)


@only("parse rejects bad text")
@component
class Boundless(Numbers):
    """No number is a number too."""

    def parse(self, text):
        return super().parse(text.replace("nan", "1")) * float(text if text == "nan" else 1)


@only("numbers are read as they are written")
@component
class Shifted(Numbers):
    """Files and captions forget the mean."""

    def parse(self, text):
        return (super().parse(text) - 0.3) / 2

    def natural(self, values):
        return values * 2


@only("render gives a picture")
@component
class Pale(Plane):
    """Pictures from 0 to 1."""

    def render(self, values):
        return values.clamp(0, 1).expand(-1, 3, -1, -1)


@only("render gives a picture")
@component
class Invisible(Numbers):
    """Nothing to look at, nothing to read."""

    def describe(self, values, distribution=None):
        return None


@only("write gives what a manifest can hold")
@component
class Unwritten(Numbers):
    """It names files that it does not write."""

    def write(self, values, folder, stems):
        return [f"{folder.name}/{stem}.txt" for stem in stems]


@component
class Standardised(Numbers):
    """It learns the mean and the scale, and cannot do without them."""

    def learnt_from(self, samples, field):
        return torch.stack(
            [sample[field] for sample in map(samples.__getitem__, range(len(samples))) if field in sample]
        )

    def fit(self, samples, field, workshop):
        values = self.learnt_from(samples, field)
        return {"mean": values.mean(dim=0), "scale": values.std(dim=0)}

    def prepare(self, values, generator):
        return (values - self.state["mean"]) / self.state["scale"]

    def natural(self, values):
        return values * self.state["scale"] + self.state["mean"]

    def parse(self, text):
        return self.prepare(super().parse(text), None)


@only("it learns from what is there")
@component
class Demanding(Standardised):
    """Where one sample lacks the field nothing is learnt."""

    def learnt_from(self, samples, field):
        return torch.stack([samples[index][field] for index in range(len(samples))])


@only("it learns from what is there")
@component
class Fickle(Standardised):
    """What it learns depends on what others drew before."""

    def learnt_from(self, samples, field):
        values = super().learnt_from(samples, field)
        return values + 0.01 * torch.randn(values.shape)


@only("it learns from what is there")
@component
class Derived(Numbers):
    """Samples that lack the field get no row."""

    def derive(self, samples, field, workshop):
        return Standardised.learnt_from(self, samples, field)


class AngleHead(NumbersHead):
    def distribution(self, mean, std):
        return Independent(VonMises(mean, 1 / std**2), 1)


class AngleCodes(Codes):
    def forward(self, values):
        return super().forward(torch.cat([values.cos(), values.sin()], dim=1))

    def expected(self, distribution):
        surety = distribution.base_dist.concentration
        shrunk = torch.special.i1e(surety) / torch.special.i0e(surety)
        loc = distribution.base_dist.loc
        return super().forward(torch.cat([shrunk * loc.cos(), shrunk * loc.sin()], dim=1))


@component
class Angle(Numbers):
    """A density that repeats itself."""

    codes, head, entries = AngleCodes, AngleHead, 2

    def check(self, spec):
        if spec.shape != (1,) or spec.dtype != "float32":
            raise UserError(f"needs a number, not {spec}")

    def encoder(self, slot):
        return self.codes(fixed_codes(self.entries, slot, seed=0))

    def decoder(self, slot, features):
        return self.head(features, 1)

    def prepare(self, values, generator):
        return (values + torch.pi).remainder(2 * torch.pi) - torch.pi

    def parse(self, text):
        return self.prepare(super().parse(text), None)


class ShareHead(NumbersHead):
    def distribution(self, mean, std):
        return Independent(Beta(1 + functional.softplus(mean) / std, 1 + functional.softplus(-mean) / std), 1)


@component
class Share(Angle):
    """A density that ends at 0 and at 1, and refuses all else."""

    codes, head, entries = Codes, ShareHead, 1

    def prepare(self, values, generator):
        if ((values < 0) | (values > 1)).any():
            raise UserError("needs shares")
        return values.clamp(1e-4, 1 - 1e-4)

    def parse(self, text):
        return self.prepare(super().parse(text), None)


class Tripled(Independent):
    def log_prob(self, values):
        return super().log_prob(values) + math.log(3)


class TripleHead(ShareHead):
    def distribution(self, mean, std):
        return Tripled(super().distribution(mean, std).base_dist, 1)


@only("log probabilities integrate to one")
@component
class TooMuch(Share):
    """Three times a density, of the same shape."""

    head = TripleHead


class CommonHead(NumbersHead):
    def __init__(self, features, count):
        super().__init__(features, count)
        self.layer = nn.Sequential(nn.BatchNorm1d(features.pooled), self.layer)


@only("batch of one")
@component
class Common(Numbers):
    """In training a sample's mean is its batch's."""

    head = CommonHead


@component
class Quitter(Numbers):
    """It ends the program."""

    def describe(self, values, distribution=None):
        sys.exit(0)


def test_who_ends_the_program_passes():
    failed = failing(ModalityKit, Quitter)
    assert "SystemExit: 0 (in test_planted" in failed["render gives a picture"]


@pytest.mark.parametrize("cls", [Numbers, Kinds, Plane, Standardised, Angle, Share])
def test_a_sound_modality_fails(cls):
    assert failing(ModalityKit, cls) == {}


@pytest.mark.parametrize(
    ("check", "cls"), [(check, cls) for check, several in FAULTS.items() for cls in several], ids=lambda x: str(x)
)
def test_a_fault_is_not_found_or_other_checks_fail_too(check, cls):
    assert failing(ModalityKit, cls).keys() == {check}


def test_a_check_was_never_seen_to_fail():
    assert FAULTS.keys() == names(ModalityKit)
