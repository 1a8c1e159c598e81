"""The U-Net: promised shapes, gradients, and its dependence on the noise level."""

import math

import pytest
import torch

from mtdiff_core import Context, ContextShape, UserError
from mtdiff_core.backbones.unet import UNet
from mtdiff_core.backbones.unet_network import Glance

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 8}


def context_shape(channels=0, flags=2):
    return ContextShape(channels=channels, flags=flags)


def nothing(count, space=(1, 8, 8)):
    """A context that says nothing."""
    return Context(observed=torch.zeros(count, 0, *space[1:]), flags=torch.zeros(count, 2))


def build(space=(1, 8, 8), **options):
    torch.manual_seed(0)
    return UNet(**{**SMALL, **options}).build(space, context_shape())


def awake(network):
    """The network with its zero-initialised layers perturbed, so that every path carries something."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return network


def ask(network, z, log_snr):
    """Its features where nothing is known or missing."""
    return network(z, log_snr, nothing(len(z), z.shape[1:]))


def points(count=2, space=(1, 8, 8)):
    return torch.randn(count, *space, generator=torch.Generator().manual_seed(1))


def tensors(features):
    return {"map": features.map, "bottleneck": features.bottleneck, "pooled": features.pooled}


@pytest.mark.parametrize(
    ("options", "space"),
    [
        ({}, (1, 8, 8)),
        ({}, (4, 8, 16)),
        ({}, (3, 12, 4)),
        ({"multipliers": (1,), "attention": ()}, (1, 7, 5)),
        ({"multipliers": (2, 1), "blocks": 2}, (2, 8, 8)),
        ({"multipliers": (1, 2, 3), "blocks": 2, "attention": (8, 4)}, (1, 16, 8)),
        ({"multipliers": (1, 1, 2, 2), "attention": (16, 8, 4, 2)}, (1, 16, 16)),
        ({"channels": 12, "head_channels": 12, "multipliers": (1, 3)}, (1, 4, 4)),
        ({"dropout": 0.5}, (1, 8, 8)),
    ],
    ids=str,
)
def test_features_have_the_shapes_that_were_promised(options, space):
    backbone = UNet(**{**SMALL, **options})
    promised = backbone.feature_shapes(space)
    features = ask(backbone.build(space, context_shape()), points(3, space), torch.zeros(3))
    assert features.map.shape == (3, *promised.map)
    assert features.bottleneck.shape == (3, *promised.bottleneck)
    assert features.pooled.shape == (3, promised.pooled)
    assert promised.map[1:] == space[1:]


@pytest.mark.parametrize("attention", [(), (8, 4)])
def test_every_parameter_gets_a_gradient(attention):
    network = awake(build(attention=attention))
    told = Context(observed=torch.zeros(2, 0, 8, 8), flags=torch.ones(2, 2))
    features = network(points(), torch.zeros(2), told)
    sum(tensor.square().sum() for tensor in tensors(features).values()).backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


def test_every_kind_of_feature_depends_on_every_input():
    network, z = awake(build()), points().requires_grad_()
    for name, tensor in tensors(ask(network, z, torch.zeros(2))).items():
        (gradient,) = torch.autograd.grad(tensor.sum(), z, retain_graph=True)
        assert (gradient != 0).all(), f"{name} does not see all of z"


def test_features_depend_on_the_log_snr():
    network = awake(build())
    with torch.no_grad():
        calm, noisy = (
            tensors(ask(network, points(), torch.full((2,), 3.0))),
            tensors(ask(network, points(), torch.zeros(2))),
        )
    for name in calm:
        assert (calm[name] - noisy[name]).abs().max() > 1e-2, f"{name} does not see the log-SNR"


def test_each_sample_is_treated_on_its_own():
    network, log_snr = awake(build()).eval(), torch.tensor([-4.0, 0.0, 5.0])
    with torch.no_grad():
        together = tensors(ask(network, points(3), log_snr))
        for i in range(3):
            alone = tensors(ask(network, points(3)[i : i + 1], log_snr[i : i + 1]))
            for name in together:
                torch.testing.assert_close(together[name][i : i + 1], alone[name], atol=1e-4, rtol=1e-4)


def test_features_and_gradients_are_finite_where_the_log_snr_is_infinite():
    network = awake(build())
    log_snr = torch.tensor([math.inf, -math.inf])
    features = tensors(ask(network, points(), log_snr))
    assert all(tensor.isfinite().all() for tensor in features.values())
    sum(tensor.sum() for tensor in features.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_ends_of_the_noise_range_are_told_apart_from_each_other_and_from_what_lies_near():
    network = awake(build())
    ends = torch.tensor([math.inf, 12.0, 0.0, -12.0, -math.inf])
    with torch.no_grad():
        pooled = ask(network, points(1).expand(5, -1, -1, -1), ends).pooled
    distances = torch.cdist(pooled, pooled) + torch.eye(5)
    assert distances.min() > 1e-4


def test_channels_last_gives_the_same_features():
    network, log_snr = awake(build((3, 8, 8))).eval(), torch.tensor([0.5, -3.0])
    with torch.no_grad():
        expected = tensors(ask(network, points(2, (3, 8, 8)), log_snr))
        network.to(memory_format=torch.channels_last)
        got = tensors(ask(network, points(2, (3, 8, 8)).to(memory_format=torch.channels_last), log_snr))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_only():
    network, log_snr = awake(build(dropout=0.5)), torch.zeros(2)
    with torch.no_grad():
        assert not ask(network, points(), log_snr).map.equal(ask(network, points(), log_snr).map)
        network.eval()
        assert ask(network, points(), log_snr).map.equal(ask(network, points(), log_snr).map)


def test_attention_is_where_it_was_asked_for():
    def count(**options):
        return sum(1 for module in build((1, 16, 16), **options).modules() if type(module).__name__ == "Attention")

    only_middle = count(attention=())
    assert only_middle == 1
    assert count(attention=(16,)) == count(attention=(8,)) == only_middle + 3  # one on the way down, two on the way up
    assert count(attention=(16, 8)) == only_middle + 6
    assert count(attention=(5,)) == only_middle


@pytest.mark.parametrize("space", [(1, 6, 8), (1, 8, 6)])
def test_a_size_that_cannot_be_halved_is_refused_with_one_that_can(space):
    with pytest.raises(UserError, match=r"backbone\.multipliers: .*a multiple of 4, not "):
        UNet(**{**SMALL, "multipliers": (1, 1, 1)}).feature_shapes(space)


def test_channels_that_do_not_fill_the_attention_heads_are_refused():
    with pytest.raises(UserError, match=r"backbone\.head_channels: 16 channels cannot be divided .* heads of 12"):
        UNet(**{**SMALL, "head_channels": 12}).build((1, 8, 8), context_shape())


def test_no_resolution_at_all_is_refused():
    with pytest.raises(UserError, match=r"backbone\.multipliers: needs at least one entry"):
        UNet(multipliers=()).build((1, 8, 8), context_shape())


def test_flags_and_observed_encodings_change_nothing():
    network = awake(UNet(**SMALL).build((1, 8, 8), context_shape(channels=2)))
    observed, flags = torch.zeros(2, 2, 8, 8), torch.zeros(2, 2)

    def answer(observed, flags):
        return network(points(), torch.zeros(2), Context(observed=observed, flags=flags)).map

    assert not answer(observed, flags).equal(answer(observed, flags + torch.tensor([0.0, 1.0])))
    assert not answer(observed, flags).equal(answer(observed + 1, flags))


def test_a_glance_says_something_before_training_or_never_learns_to_or_sees_no_places():
    torch.manual_seed(0)
    glance, observed = Glance(1, 8), torch.randn(2, 1, 8, 8)
    assert not glance(observed).any()
    glance(observed).sum().backward()
    with torch.no_grad():
        for parameter in glance.parameters():
            parameter -= parameter.grad
    assert glance(observed).any()
    torch.testing.assert_close(glance(observed + torch.tensor([1.0, -1.0]).repeat(4)), glance(observed))  # too fine
    assert not torch.allclose(glance(observed.roll(4, dims=3)), glance(observed))


def test_what_is_known_is_not_glanced_at():
    network = awake(UNet(**SMALL).build((1, 8, 8), context_shape(channels=1)))
    given_ones = Context(observed=torch.ones(2, 1, 8, 8), flags=torch.zeros(2, 2))
    with torch.no_grad():
        network.stem.weight[:, 1:] = 0  # without what the stem sees of it
        without = Context(observed=torch.zeros(2, 1, 8, 8), flags=torch.zeros(2, 2))
        assert not network(points(), torch.zeros(2), given_ones).map.equal(
            network(points(), torch.zeros(2), without).map
        )


def test_flags_mean_something_before_training():
    network = build()
    context = Context(observed=torch.zeros(2, 0, 8, 8), flags=torch.ones(2, 2))
    assert ask(network, points(), torch.zeros(2)).pooled.equal(network(points(), torch.zeros(2), context).pooled)
