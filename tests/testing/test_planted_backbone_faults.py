"""For each check of the kit for backbones one that breaks one promise: this check finds it, no other does."""

import attrs
import pytest
import torch
from torch import nn

from mtdiff_core import Context, Features, component
from mtdiff_core.testing import BackboneKit
from mtdiff_core.testing.toys import ToyBackbone, ToyNetwork
from tests.testing.planting import failing, names

FAULTS = {}


def only(check):
    """Register a fault that only this check may find."""

    def register(cls):
        FAULTS.setdefault(check, []).append(cls)
        return cls

    return register


@component
class Sound(ToyBackbone):
    """A backbone that keeps every promise."""

    network = ToyNetwork

    def build(self, space, context):
        return self.network(space, context)


@only("it is described")
@component
class Unnamed(Sound):
    pass


@only("features have the shapes that were promised")
@component
class Boasting(Sound):
    """A bottleneck of twice the height is promised, for one space alone."""

    def feature_shapes(self, space):
        shapes = Sound.feature_shapes(self, space)
        if space != (2, 8, 8):
            return shapes
        channels, height, width = shapes.bottleneck
        return attrs.evolve(shapes, bottleneck=(channels, 2 * height, width))


@only("spaces that it cannot do are refused")
@component
class Even(Sound):
    """An odd size ends in a traceback."""

    def build(self, space, context):
        if space[1] % 2 or space[2] % 2:
            raise ValueError("cannot halve")
        return ToyNetwork(space, context)


def changed(features, change):
    return Features(map=change(features.map), bottleneck=features.bottleneck, pooled=features.pooled)


class MutualNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        return changed(super().forward(z, log_snr, context), lambda x: x - 0.1 * x.mean(dim=0))


@only("any batch size")
@component
class Mutual(Sound):
    """Samples of a batch change each other."""

    network = MutualNetwork


class NormedNetwork(ToyNetwork):
    def __init__(self, space, context):
        super().__init__(space, context)
        self.norm = nn.BatchNorm2d(self.second.out_channels)

    def forward(self, z, log_snr, context):
        return changed(super().forward(z, log_snr, context), self.norm)


@only("any batch size")
@component
class Normed(Sound):
    """They do so in training alone."""

    network = NormedNetwork


class IdleNetwork(ToyNetwork):
    def __init__(self, space, context):
        super().__init__(space, context)
        self.idle = nn.Parameter(torch.ones(2))


@only("gradients reach every parameter")
@component
class Idle(Sound):
    """A parameter that nothing reads."""

    network = IdleNetwork


class DeafNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        return super().forward(z, log_snr, Context(observed=context.observed, flags=0 * context.flags))


@only("everything is heard")
@component
class Deaf(Sound):
    """What is missing is not told apart from what is 0."""

    network = DeafNetwork


class UnboundedNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        return changed(super().forward(z, log_snr, context), lambda x: x + 1e-3 * log_snr[:, None, None, None])


@only("both ends of the noise")
@component
class Unbounded(Sound):
    """Infinity goes in, and out."""

    network = UnboundedNetwork


class HostNetwork(ToyNetwork):
    def __init__(self, space, context):
        super().__init__(space, context)
        self.offset = torch.ones(8, 1, 1)

    def forward(self, z, log_snr, context):
        return changed(super().forward(z, log_snr, context), lambda x: x + self.offset)


@only("devices")
@component
class OnTheHost(Sound):
    """A constant that stays behind when the model moves."""

    network = HostNetwork


class ForgetfulNetwork(ToyNetwork):
    def __init__(self, space, context):
        super().__init__(space, context)
        self.register_buffer("offset", torch.randn(8, 1, 1), persistent=False)

    def forward(self, z, log_snr, context):
        return changed(super().forward(z, log_snr, context), lambda x: x + self.offset)


@only("save and load")
@component
class Forgetful(Sound):
    """What was drawn when it was built is not saved."""

    network = ForgetfulNetwork


class ShortCutNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        factor = 1.1 if torch.compiler.is_compiling() else 1
        return changed(super().forward(z, log_snr, context), lambda x: factor * x)


@only("it compiles")
@component
class ShortCut(Sound):
    """Compiled, it says something else."""

    network = ShortCutNetwork


class CancellingNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        features = super().forward(z, log_snr, context)
        return changed(features, lambda x: (x + 100) - 100)


@only("it works in bf16")
@component
class Cancelling(Sound):
    """A difference of large numbers."""

    network = CancellingNetwork


class FaintNetwork(ToyNetwork):
    def forward(self, z, log_snr, context):
        features = super().forward(z, log_snr, context)
        return Features(**{name: 1 + 1e-5 * x for name, x in vars(features).items()})


@only("a joint model learns")
@component
class Faint(Sound):
    """Whatever it sees, its features are hardly others."""

    network = FaintNetwork


def test_a_sound_backbone_fails():
    assert failing(BackboneKit, Sound) == {}


@pytest.mark.parametrize(
    ("check", "cls"), [(check, cls) for check, several in FAULTS.items() for cls in several], ids=str
)
def test_a_fault_is_not_found_or_other_checks_fail_too(check, cls):
    assert failing(BackboneKit, cls).keys() == {check}


def test_a_check_was_never_seen_to_fail():
    assert FAULTS.keys() == names(BackboneKit)
