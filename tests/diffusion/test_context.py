"""What the network is told besides the noisy point."""

import pytest
import torch
from torch import nn

from mtdiff_core import Backbone, Encoder, Features, FeatureShapes, FieldSpec, component
from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.diffusion.model import MultiModalDiffusion
from mtdiff_core.schedule import CosineSchedule
from tests.diffusion.toys import ANCHOR, OTHER, Toy, process

EVERYONE = torch.tensor([True, True, True])
SOME = torch.tensor([True, False, True])


class Recorder(nn.Module):
    """A network that keeps what it is told."""

    def __init__(self, context):
        super().__init__()
        self.context = context

    def forward(self, z, log_snr, context):
        assert context.observed.shape[1] == self.context.channels
        assert context.flags.shape[1] == self.context.flags
        return Features(map=z, bottleneck=z, pooled=z.flatten(1)[:, :1])


@component
class Recording(Backbone):
    """Its options are none."""

    def feature_shapes(self, space):
        return FeatureShapes(map=space, bottleneck=space, pooled=1)

    def build(self, space, context):
        return Recorder(context)


def make_model(observes, told=None):
    spec = FieldSpec(shape=(1, 1, 1), dtype="float64")
    modalities = {ANCHOR: Toy().bind(spec), OTHER: Toy(kind="class").bind(spec)}
    return MultiModalDiffusion(
        modalities, process(CosineSchedule(), BlocksAggregator()), Recording(), observes=observes, told=told
    )


@pytest.fixture
def encodings():
    torch.manual_seed(0)
    return {ANCHOR: torch.randn(3, 1, 1, 1), OTHER: torch.randn(3, 1, 1, 1)}


def test_a_network_that_does_not_observe_is_told_what_is_known(encodings):
    model = make_model(observes=False)
    z = torch.zeros(3, 2, 1, 1)
    assert model.backbone.context.channels == 0
    told = model.context(z, encodings, {ANCHOR: EVERYONE, OTHER: SOME}, {OTHER: ~SOME})
    assert told.observed.shape == (3, 0, 1, 1)
    torch.testing.assert_close(told.flags, torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("known", [None, {ANCHOR: EVERYONE, OTHER: SOME}])
def test_a_network_is_told_what_it_never_was_in_training(encodings, known):
    model, whole = make_model(observes=True, told=[OTHER]), make_model(observes=True)
    z = torch.zeros(3, 2, 1, 1)
    told = model.context(z, encodings, known)
    expected = whole.context(z, {OTHER: encodings[OTHER]}, known and {OTHER: known[OTHER]})
    torch.testing.assert_close(vars(told), vars(expected))
    assert told.flags[:, 2].sum() == 0
    assert told.observed[:, 0].count_nonzero() == 0


def test_a_network_that_observes_is_not_told_each_encoding_and_flag_in_its_place(encodings):
    model = make_model(observes=True)
    z = torch.zeros(3, 2, 1, 1)
    told = model.context(z, encodings, {ANCHOR: ~SOME, OTHER: SOME}, {ANCHOR: SOME})
    assert model.backbone.context.channels == 2
    expected = torch.stack(
        [encodings[ANCHOR] * ~SOME[:, None, None, None], encodings[OTHER] * SOME[:, None, None, None]], 1
    )
    torch.testing.assert_close(told.observed, expected[:, :, 0])
    flags = torch.stack([SOME, ~EVERYONE, ~SOME, SOME], dim=1)  # missing x, missing y, known x, known y
    torch.testing.assert_close(told.flags, flags.float())


def test_a_sampler_tells_another_context_than_training_does(encodings):
    model = make_model(observes=True)
    z = torch.zeros(3, 2, 1, 1)
    nobody = ~EVERYONE
    sampling = model.context(z, {OTHER: encodings[OTHER]})
    training = model.context(z, encodings, {ANCHOR: nobody, OTHER: EVERYONE}, {ANCHOR: nobody, OTHER: nobody})
    assert torch.equal(sampling.observed, training.observed)
    assert torch.equal(sampling.flags, training.flags)
    assert not model.context(z, {}).flags.any()


def test_an_encoder_reveals_something_unless_it_says_so():
    class Plain(Encoder):
        def forward(self, values):
            return values

        def expected(self, distribution):
            return distribution.mean

    assert Plain().reveals(torch.zeros(2, 1, 4, 4)) is None
