"""The numbers behind metrics, each against a closed form or a second way to it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_jaccard_index
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TorchmetricsScore
from torchmetrics.image.kid import poly_mmd

from mtdiff_metrics import frechet, neighbours
from mtdiff_metrics.frechet import Reference, frechet_distance
from mtdiff_metrics.kernel import kernel_distance
from mtdiff_metrics.neighbours import inside, nearest, radii
from mtdiff_metrics.overlap import mean_iou, overlaps
from mtdiff_metrics.scorers.agreement import chance
from mtdiff_metrics.scorers.labels import gaps
from mtdiff_metrics.scorers.pictures import inception_score, precision_recall, with_negative_entropy
from mtdiff_metrics.scorers.reconstruction import decibels


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


# Frechet distance


def test_the_distance_of_two_gaussians_is_not_their_closed_form():
    # Rows with exactly these moments: whitened, then scaled along common axes.
    def rows(mean, scale, seed):
        white = normal(500, 3, seed=seed)
        white = white - white.mean(dim=0)
        root = torch.linalg.cholesky(torch.linalg.inv(white.T.cov()))
        return (white @ root) * torch.tensor(scale).double() + torch.tensor(mean).double()

    first, second = rows([0.0, 1.0, 2.0], [1.0, 2.0, 0.5], 0), rows([1.0, 1.0, 0.0], [2.0, 2.0, 1.5], 1)
    assert float(frechet_distance(first[None], Reference.fit(second))) == pytest.approx(5 + 1 + 0 + 1, rel=1e-9)


def test_the_frechet_distance_differs_from_torchmetrics():
    class AsTheyAre(nn.Module):
        num_features = 6

        def forward(self, features):
            return features.flatten(1)

    first, second = normal(40, 6) @ normal(6, 6, seed=2), normal(50, 6, seed=1) + 0.3
    theirs = FrechetInceptionDistance(feature=AsTheyAre(), normalize=True, input_img_size=(1, 1, 6)).set_dtype(
        torch.float64
    )
    theirs.update(second, real=True)
    theirs.update(first, real=False)
    assert float(frechet_distance(first[None], Reference.fit(second))) == pytest.approx(float(theirs.compute()))


def test_resamples_at_once_have_other_distances_than_one_by_one():
    reference = Reference.fit(normal(30, 4))
    sets = normal(5, 20, 4, seed=1)
    alone = torch.cat([frechet_distance(one[None], reference) for one in sets])
    torch.testing.assert_close(frechet_distance(sets, reference), alone)


def test_a_feature_that_never_varies_has_no_distance():
    features = functional.pad(normal(30, 4), (0, 2))
    assert float(frechet_distance(features[None], Reference.fit(features))) == pytest.approx(0, abs=1e-6)
    assert frechet.moments(features[None])[1].shape == (1, 6, 6)


# Kernel distance


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_kernel_distance_differs_from_torchmetrics(monkeypatch, chunk):
    monkeypatch.setattr("mtdiff_metrics.kernel.CHUNK", chunk)
    first, second = normal(30, 5), normal(30, 5, seed=1) + 0.5
    assert kernel_distance(first, second)[0] == pytest.approx(float(poly_mmd(first, second)))


def test_pseudo_values_are_not_those_of_leaving_one_out():
    first, second = normal(12, 3), normal(20, 3, seed=1)
    value, single = kernel_distance(first, second)
    assert float(single.mean()) == pytest.approx(value)
    without = kernel_distance(first[1:], second)[0]
    assert float(single[0]) == pytest.approx(12 * value - 11 * without)


# Inception score


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save")
@pytest.mark.filterwarnings("ignore:std")
def test_the_inception_score_differs_from_torchmetrics():
    logits = 2 * normal(60, 4).float()
    theirs = TorchmetricsScore(feature=nn.Identity(), normalize=False, splits=1)
    theirs.update(logits)
    rows = with_negative_entropy(logits.softmax(dim=1))
    assert float(inception_score(rows.mean(dim=0, keepdim=True))) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_sure_and_balanced_is_less_than_the_number_of_classes():
    rows = with_negative_entropy(torch.eye(5).repeat(3, 1))
    assert float(inception_score(rows.mean(dim=0, keepdim=True))) == pytest.approx(5)


# Neighbours


@pytest.mark.parametrize("chunk", [3, 1000])
def test_precision_and_recall_differ_from_the_definition(monkeypatch, chunk):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    made, real = normal(17, 2).float() * 0.5, normal(20, 2, seed=1).float()

    def among(points, others):
        hits = []
        for point in points:
            hit = False
            for i, other in enumerate(others):
                apart = sorted(math.dist(other, x) for j, x in enumerate(others) if j != i)
                hit |= math.dist(point, other) <= apart[2] + 1e-6
            hits.append(hit)
        return hits

    found = precision_recall(made, real, 3)
    assert found[0].tolist() == among(made.tolist(), real.tolist())
    assert found[1].tolist() == among(real.tolist(), made.tolist())
    assert 0 < sum(found[1].tolist()) < 20


def test_a_neighbourhood_counts_its_own_middle():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, 2).tolist() == [3, 2, 3, 6]
    assert inside(torch.tensor([[13.0], [13.5]]), line, radii(line, 2)).tolist() == [True, False]


@pytest.mark.parametrize("chunk", [2, 1000])
def test_the_nearest_picture_is_not_the_nearest(monkeypatch, chunk):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    pixels = torch.tensor([[0, 0], [255, 0], [255, 255], [51, 0]], dtype=torch.uint8)
    found = nearest(torch.tensor([[0.0, 0.1], [1.0, 0.4], [0.2, 0.0]]), pixels)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.4, 0.0]))


# Overlap


def test_mean_iou_differs_from_torchmetrics():
    random = torch.Generator().manual_seed(0)
    found, truth = torch.randint(0, 4, (2, 6, 5, 5), generator=random)
    truth[:, 0] = 255
    theirs = multiclass_jaccard_index(found, truth, num_classes=4, ignore_index=255)
    counts = overlaps(found, truth, 4, 255)
    assert counts.shape == (6, 8)
    assert float(mean_iou(counts.sum(dim=0, keepdim=True))) == pytest.approx(float(theirs))


def test_a_class_that_is_nowhere_counts_as_missed():
    maps = torch.tensor([[[0, 1], [1, 1]]])
    assert float(mean_iou(overlaps(maps, maps, 7))) == 1


def test_an_ignored_class_inside_the_range_counts():
    truth = torch.tensor([[[0, 1, 2]]])
    found = torch.tensor([[[0, 1, 0]]])
    assert overlaps(found, truth, 3, ignore=2).tolist() == [[1, 1, 0, 1, 1, 0]]
    assert overlaps(found, truth, 3).tolist() == [[1, 1, 0, 2, 1, 1]]


def test_an_ignored_class_that_is_found_is_a_class_that_is_always_missed():
    random = torch.Generator().manual_seed(0)
    found, truth = torch.randint(0, 3, (2, 6, 5, 5), generator=random)
    theirs = multiclass_jaccard_index(found, truth, num_classes=3, ignore_index=2)
    counts = overlaps(found, truth, 3, ignore=2).sum(dim=0, keepdim=True)
    assert float(mean_iou(counts)) == pytest.approx(float(theirs))


# Others


def test_gaps_do_not_add_up_to_the_calibration_error_of_torchmetrics():
    random = torch.Generator().manual_seed(0)
    probabilities = (2 * torch.randn(200, 5, generator=random)).softmax(dim=1)
    truth = torch.randint(0, 5, (200,), generator=random)
    confidence, found = probabilities.max(dim=1)
    rows = gaps(confidence, found == truth, 15)
    theirs = multiclass_calibration_error(probabilities, truth, num_classes=5, n_bins=15)
    assert float(rows.mean(dim=0).abs().sum()) == pytest.approx(float(theirs), abs=1e-6)


def test_chance_is_not_the_mean_of_all_pairings():
    judged, labels = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    by_hand = sum(float(a == b) for a in judged for b in labels) / 16
    assert chance(judged, labels, 3) == pytest.approx(by_hand)


def test_decibels_of_no_error_are_infinite():
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0.0) == 100
