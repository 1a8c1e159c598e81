"""The paired image: what it adds to an image is its head."""

import pytest
import torch

from mtdiff_core import FeatureShapes, FieldSpec
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from mtdiff_paired_image import PairedImage
from mtdiff_paired_image.codec import LEAST_LOG_STD
from tests.slots import silent_slot

SPEC = FieldSpec(shape=(3, 8, 8), dtype="uint8")
FEATURES = FeatureShapes(map=(8, 8, 8), bottleneck=(16, 4, 4), pooled=24)


def head(**options):
    return PairedImage(**options).bind(SPEC).decoder((3, 8, 8), FEATURES)


def features(scale=1.0, batch=2):
    random = torch.Generator().manual_seed(0)
    return type("Features", (), {"map": scale * torch.randn(batch, 8, 8, 8, generator=random)})


SILENT = silent_slot(2, (3, 8, 8))


def test_it_is_prepared_changed_or_written_otherwise_than_an_image():
    stored = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    results = []
    for kind in (Image, PairedImage):
        modality = kind(flip=True, rotate=20, shift=2).bind(SPEC)
        values = modality.augment(modality.prepare(stored, generator(0)), generator(0, "augment"))
        results.append((values, modality.natural(values), modality.render(values)))
    for own, image in zip(*results, strict=True):
        assert own.equal(image)


def test_it_cannot_be_the_anchor():
    modality = PairedImage().bind(SPEC)
    values = torch.randn(2, 3, 8, 8)
    assert modality.one_to_one
    assert modality.anchor_shape() == (3, 8, 8)
    assert modality.encoder((3, 8, 8)).invert(values).equal(values)


def test_an_untrained_head_says_more_than_the_standard_normal():
    found, values = head()(features(), SILENT), torch.randn(2, 3, 8, 8)
    standard = torch.distributions.Normal(0, 1).log_prob(values).sum(dim=(1, 2, 3))
    assert (found.batch_shape, found.event_shape) == ((2,), (3, 8, 8))
    torch.testing.assert_close(found.log_prob(values), standard, rtol=0.02, atol=0)


@pytest.mark.parametrize("options", [{}, {"blocks": 2, "hidden": 12}])
def test_a_part_of_the_head_never_learns(options):
    decoder = head(**options)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.01)
    values, before = torch.randn(2, 3, 8, 8), [p.clone() for p in decoder.parameters()]
    for _ in range(4):  # layers that start at 0 let the gradient through one after another
        optimizer.zero_grad()
        (-decoder(features(), SILENT).log_prob(values)).mean().backward()
        optimizer.step()
    assert all(not now.equal(then) for now, then in zip(decoder.parameters(), before, strict=True))


def test_every_pixel_has_one_width():
    decoder = head()
    torch.nn.init.normal_(decoder.layers[-1].weight, generator=torch.Generator().manual_seed(0))
    assert decoder(features(), SILENT).base_dist.scale.std() > 0.1


def test_the_head_grows_surer_than_its_floor_or_is_stuck_there():
    decoder = head()
    torch.nn.init.zeros_(decoder.layers[-1].weight)
    with torch.no_grad():
        decoder.layers[-1].bias[3:] = LEAST_LOG_STD - 8
    found = decoder(features(), SILENT)
    assert (found.base_dist.scale >= torch.tensor(LEAST_LOG_STD).exp()).all()
    (-found.log_prob(torch.ones(2, 3, 8, 8))).sum().backward()  # far from the mean, 0
    assert (decoder.layers[-1].bias.grad[3:] < 0).all(), "a step down the gradient does not widen it"


def test_the_number_of_blocks_changes_nothing():
    few, many = (sum(p.numel() for p in head(blocks=n).parameters()) for n in (1, 4))
    block = 2 * (64 * 64 * 9 + 64 + 2 * 64)
    assert many - few == 3 * block
