"""For each check of the kit for aggregators one that breaks one promise: this check finds it, no other does."""

import pytest
import torch

from mtdiff_core import component
from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.aggregators.linear import LinearAggregator
from mtdiff_core.testing import AggregatorKit
from tests.testing.planting import failing, names

FAULTS = {}


def only(check):
    """Register a fault that only this check may find."""

    def register(cls):
        FAULTS.setdefault(check, []).append(cls)
        return cls

    return register


@only("it is described")
@component
class Unnamed(LinearAggregator):
    pass


@only("layout")
@component
class Sociable(BlocksAggregator):
    """It cannot do with the anchor alone."""

    def layout(self, anchor, anchor_shape, block_channels):
        _ = max(block_channels.values())
        return BlocksAggregator.layout(self, anchor, anchor_shape, block_channels)


@only("layout")
@component
class TooLarge(LinearAggregator):
    """A space with a row too many, where there are three or more."""

    def layout(self, anchor, anchor_shape, block_channels):
        channels, height, width = anchor_shape
        shape = (channels, height + (len(block_channels) > 1), width)
        return LinearAggregator.layout(self, anchor, shape, block_channels)


@only("coefficients at both ends")
@component
class Leaking(LinearAggregator):
    """A trace that is left in pure noise."""

    def coefficient(self, options, alpha, sigma):
        return 1e-3 + LinearAggregator.coefficient(self, options, alpha, sigma)


@only("coefficients at both ends")
@component
class Dividing(LinearAggregator):
    """Nothing is what 0 by 0 is."""

    def coefficient(self, options, alpha, sigma):
        return LinearAggregator.coefficient(self, options, alpha, sigma) * sigma / sigma


@only("carries says what coefficients do")
@component
class Modest(LinearAggregator):
    """It says that it carries nothing."""

    def carries(self, options):
        return False


@only("gaussian identities")
@component
class Relative(LinearAggregator):
    """Coefficients that depend on what else is asked for."""

    def coefficient(self, options, alpha, sigma):
        c = LinearAggregator.coefficient(self, options, alpha, sigma)
        return c * (1 + 0.1 * alpha.mean())


@only("only own channels are shifted")
@component
class Shifting(LinearAggregator):
    """The noise of everyone else is shifted too."""

    def log_snr_shift(self, options):
        return 0.5


@only("devices")
@component
class OnTheHost(LinearAggregator):
    """A constant that stays behind."""

    def coefficient(self, options, alpha, sigma):
        return LinearAggregator.coefficient(self, options, alpha, sigma) * torch.ones(3, 1, 1)[: alpha.shape[1]]


@only("a joint model learns")
@component
class Faint(LinearAggregator):
    """Coefficients that nobody can see."""

    def coefficient(self, options, alpha, sigma):
        return 1e-4 * LinearAggregator.coefficient(self, options, alpha, sigma)


@pytest.mark.parametrize(
    ("check", "cls"), [(check, cls) for check, several in FAULTS.items() for cls in several], ids=str
)
def test_a_fault_is_not_found_or_other_checks_fail_too(check, cls):
    assert failing(AggregatorKit, cls).keys() == {check}


def test_a_check_was_never_seen_to_fail():
    assert FAULTS.keys() == names(AggregatorKit)
