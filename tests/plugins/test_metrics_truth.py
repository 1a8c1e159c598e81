"""Metrics against the truth: what they count, what they leave out, and what they are compared with."""

import math
from itertools import product

import pytest
import torch
from torch.distributions import Categorical, Normal
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy

from mtdiff_core import UserError
from mtdiff_metrics import Accuracy, CalibrationError, MeanIou, Psnr, Retrieval, Ssim
from tests.real_data import UNLABELLED, SmallData, figures, squares, told


@pytest.fixture
def real(tmp_path):
    return SmallData(tmp_path)


def right_share(share, truth):
    """Labels of which this share is right."""
    wrong = torch.arange(len(truth)) >= round(share * len(truth))
    return (truth + wrong) % 3


def pictures(count, seed=3):
    """Pictures, and the same darkened, in 0..1, and their maps."""
    made = squares(count, seed)
    return made["picture"].float() / 255, made["dark"].float() / 255, made["where"].long()


@pytest.mark.parametrize("metric", [Accuracy(), CalibrationError(), MeanIou(), Retrieval(), Psnr(), Ssim()])
def test_joint_samples_have_a_truth(real, metric):
    assert real.scorers(metric, "-> image + night + hidden + label + map + vector") == []


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (Accuracy(), "label -> image + map + vector"),
        (CalibrationError(), "label -> image"),
        (MeanIou(), "map -> image + label"),
        (Retrieval(), "vector -> image"),
        (Psnr(), "label + vector -> image"),
        (Ssim(), "label + vector -> image"),
        (Psnr(), "image -> hidden + label + map"),
    ],
)
def test_a_metric_speaks_of_a_direction_that_it_knows_nothing_of(real, metric, direction):
    assert real.scorers(metric, direction) == []


# Labels


def test_accuracy_is_not_the_share_that_is_right(real):
    truth = torch.arange(60) % 3
    batches = [told({"label": right_share(0.9, part)}, {"label": part}) for part in (truth[:20], truth[20:])]
    figure = figures(real.scorers(Accuracy(), "image -> label"), *batches)["accuracy", "label"]
    assert (figure.value, figure.n) == (pytest.approx(0.9), 60)
    assert figure.interval[0] < 0.9 < figure.interval[1]
    assert set(figure.baselines) == {"commonest class"}
    found = torch.cat([batch.values["label"] for batch in batches])
    assert figure.value == pytest.approx(float(multiclass_accuracy(found, truth, 3, average="micro")))


def test_samples_without_a_true_label_count(real):
    truth = torch.zeros(10, dtype=torch.int64)
    batch = told({"label": right_share(0.5, truth)}, {"label": truth}, {"label": torch.arange(10) < 5})
    figure = figures(real.scorers(Accuracy(), "image -> label"), batch)["accuracy", "label"]
    assert (figure.value, figure.n) == (1, 5)


def test_the_commonest_class_is_another_than_the_training_splits(tmp_path):
    real = SmallData(tmp_path, lacking={"what": 3})
    labels = real._splits["train"]["what"]
    known = [int(x) for i, x in enumerate(labels) if i % 3]
    commonest = max(range(3), key=known.count)
    for truth, share in ((commonest, 1), ((commonest + 1) % 3, 0)):
        truths = torch.full((8,), truth)
        figure = figures(real.scorers(Accuracy(), "image -> label"), told({"label": truths}, {"label": truths}))
        assert figure["accuracy", "label"].baselines["commonest class"] == share


def test_no_true_label_at_all_gives_a_share(real):
    with pytest.raises(UserError, match="accuracy of 0 samples would mean nothing"):
        figures(real.scorers(Accuracy(), "image -> label"), told({"label": torch.zeros(3)}, {}))


def calibrated(count, claim):
    """A batch that is right in 8 of 10 and claims to be right as often as ``claim`` says."""
    truth = torch.arange(count) % 3
    found = torch.where(torch.arange(count) % 10 < 8, truth, (truth + 1) % 3)
    probabilities = torch.full((count, 3), (1 - claim) / 2).scatter(1, found[:, None], claim)
    return told({"label": found}, {"label": truth}, distributions={"label": Categorical(probs=probabilities)})


@pytest.mark.parametrize(("claim", "error"), [(0.8, 0.0), (0.95, 0.15), (0.6, 0.2)])
def test_the_calibration_error_is_not_how_far_a_claim_is_from_the_share(real, claim, error):
    found = figures(real.scorers(CalibrationError(), "image -> label"), calibrated(40, claim), calibrated(60, claim))
    figure = found["calibration_error", "label"]
    assert (figure.value, figure.n) == (pytest.approx(error, abs=1e-6), 100)
    if error:
        assert figure.interval[0] < error < figure.interval[1]
    assert figure.interval[0] >= 0


def test_the_calibration_of_the_training_splits_shares_is_another(tmp_path):
    real = SmallData(tmp_path, lacking={"what": 3})
    labels = [int(x) for i, x in enumerate(real._splits["train"]["what"]) if i % 3]
    commonest = max(range(3), key=labels.count)
    share = labels.count(commonest) / len(labels)
    truth = torch.tensor([commonest] * 5 + [(commonest + 1) % 3] * 15)
    batch = told({"label": truth}, {"label": truth}, distributions={"label": Categorical(torch.full((20, 3), 1 / 3))})
    figure = figures(real.scorers(CalibrationError(), "image -> label"), batch)["calibration_error", "label"]
    assert figure.baselines == {"shares of classes in the training split": pytest.approx(share - 0.25, abs=1e-6)}


def test_a_training_split_without_labels_has_shares_of_classes(tmp_path):
    real = SmallData(tmp_path, lacking={"what": 1})
    found = figures(real.scorers(CalibrationError(), "image -> label"), calibrated(40, 0.8))
    assert found["calibration_error", "label"].baselines == {}


def test_labels_without_a_distribution_have_a_calibration(real):
    truth = torch.zeros(5, dtype=torch.int64)
    scorers = real.scorers(CalibrationError(), "image -> label")
    assert figures(scorers, told({"label": truth}, {"label": truth})) == {}
    other = told({"label": truth}, {"label": truth}, distributions={"label": Normal(truth.float(), 1.0)})
    assert figures(scorers, other) == {}


# Maps


def test_mean_iou_counts_unlabelled_pixels_or_averages_over_pictures(real):
    truth = torch.zeros(2, 12, 12, dtype=torch.int64)
    truth[:, :, 6:] = 1
    truth[:, 0] = UNLABELLED
    found = truth.clone()
    found[:, 0] = 1
    found[0, 1:, 6:9] = 0  # half of the first picture's second class
    figure = figures(real.scorers(MeanIou(), "image -> map"), told({"map": found}, {"map": truth}))["mean_iou", "map"]
    # Ground: 132 of 132 + 33; square: 99 of 132.
    assert figure.value == pytest.approx((132 / 165 + 99 / 132) / 2)
    assert (figure.n, figure.better) == (2, "higher")


def test_maps_of_no_class_that_counts_have_an_overlap(real):
    truth = torch.full((2, 12, 12), UNLABELLED)
    with pytest.raises(UserError, match="mean IoU of no pixels would mean nothing"):
        figures(real.scorers(MeanIou(), "image -> map"), told({"map": torch.zeros_like(truth)}, {"map": truth}))


def test_the_commonest_class_of_each_pixel_is_not_the_training_splits(real):
    real._splits["train"]["where"][:90, 4:8, 4:8] = 1
    maps = real._splits["train"]["where"].long()
    commonest = torch.stack([(maps == one).sum(dim=0) for one in (0, 1)]).argmax(dim=0).expand(4, -1, -1)
    assert commonest[0].unique().tolist() == [0, 1]
    found = figures(
        real.scorers(MeanIou(), "image -> map"),
        told({"map": torch.zeros(4, 12, 12, dtype=torch.int64)}, {"map": commonest.clone()}),
    )
    figure = found["mean_iou", "map"]
    assert figure.baselines == {"commonest class of each pixel": 1.0}
    assert figure.value < 0.5


def test_the_interval_of_mean_iou_is_not_about_its_value(real):
    truth = pictures(40)[2]
    found = truth.clamp(max=1)
    found[torch.rand(found.shape, generator=torch.Generator().manual_seed(0)) < 0.1] = 0
    figure = figures(real.scorers(MeanIou(), "image -> map"), told({"map": found}, {"map": truth}))["mean_iou", "map"]
    assert figure.value - 0.05 < figure.interval[0] < figure.value < figure.interval[1] < figure.value + 0.05


# Vectors


def test_retrieval_is_not_the_share_that_is_nearest_to_its_own(real):
    true = torch.randn(230, 4, generator=torch.Generator().manual_seed(0))
    found = true + 1e-3
    found[:50] = -found[:50]  # half of the first hundred are nowhere near
    batches = [told({"vector": a}, {"vector": b}) for a, b in zip(found.split(70), true.split(70), strict=True)]
    figure = figures(real.scorers(Retrieval(), "image -> vector"), *batches)["retrieval", "vector"]
    assert figure.n == 200
    assert 0.75 <= figure.value <= 0.76  # one in a hundred is right by chance
    assert figure.baselines == {"chance": 0.01}


def test_vectors_of_other_hundreds_count(real):
    true = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    figure = figures(real.scorers(Retrieval(), "image -> vector"), told({"vector": true}, {"vector": true}))
    assert figure["retrieval", "vector"].value == 1


def test_vectors_that_are_not_finite_have_a_share(real):
    true = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="generated values of 'vector' are not finite"):
        figures(real.scorers(Retrieval(), "image -> vector"), told({"vector": true * torch.nan}, {"vector": true}))


def test_fewer_than_a_hundred_vectors_have_a_share(real):
    with pytest.raises(UserError, match=r"of 0 samples .* among 100"):
        figures(
            real.scorers(Retrieval(), "image -> vector"),
            told({"vector": torch.zeros(99, 4)}, {"vector": torch.ones(99, 4)}),
        )


# Pictures


def test_psnr_is_not_that_of_the_mean_squared_error(real):
    image, dark, _ = pictures(30)
    noisy = image.clone()
    noisy[:10] += 0.1
    truth = {"image": image}
    batches = [
        told({"image": a, "night": b}, {"image": c})
        for a, b, c in zip(noisy.split(12), dark.split(12), image.split(12), strict=True)
    ]
    figure = figures(real.scorers(Psnr(), "night -> image"), *batches)["psnr", "image"]
    assert figure.value == pytest.approx(-10 * math.log10(0.01 / 3), abs=1e-3)
    assert figure.interval[0] < figure.value < figure.interval[1]
    assert (figure.unit, figure.n) == ("dB", 30)
    mean = real._splits["train"]["picture"].float().mean(dim=0) / 255

    def by_hand(picture):
        return -10 * math.log10(float((picture - truth["image"]).square().mean()))

    assert figure.baselines == {
        "mean training picture": pytest.approx(by_hand(mean), abs=1e-3),
        "night as it is": pytest.approx(by_hand(dark), abs=1e-3),
    }


@pytest.mark.parametrize("metric", [Psnr(), Ssim()])
def test_a_masked_picture_or_a_map_is_no_ground_for_a_comparison(real, metric):
    image, _, where = pictures(5)
    for known, value in (("hidden", image.repeat(1, 2, 1, 1)), ("map", where)):
        batch = told({"image": image * 0.9, known: value}, {"image": image})
        (figure,) = figures(real.scorers(metric, f"{known} -> image"), batch).values()
        assert set(figure.baselines) == {"mean training picture"}


def test_a_perfect_picture_is_not_the_best_there_is(real):
    image = pictures(5)[0]
    batch = told({"image": image, "map": image[:, 0].long()}, {"image": image})
    assert figures(real.scorers(Psnr(), "map -> image"), batch)["psnr", "image"].interval == (100, 100)
    assert figures(real.scorers(Ssim(), "map -> image"), batch)["ssim", "image"].value == pytest.approx(1)


def test_ssim_is_not_that_of_its_windows(real):
    image, dark, _ = pictures(3)
    batch = told({"image": dark, "night": dark}, {"image": image})
    figure = figures(real.scorers(Ssim(), "night -> image"), batch)["ssim", "image"]
    place = torch.arange(11).double() - 5
    bell = (-place.square() / (2 * 1.5**2)).exp()
    window = torch.outer(bell, bell) / bell.sum() ** 2
    found = []
    mirrored = [functional.pad(x.double(), (5, 5, 5, 5), mode="reflect") for x in (dark, image)]
    for a, b in zip(*mirrored, strict=True):
        for i, j in product(range(12), range(12)):
            x, y = (picture[0, i : i + 11, j : j + 11] for picture in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy, vxy = (
                (window * x * x).sum() - mx**2,
                (window * y * y).sum() - my**2,
                (window * x * y).sum() - mx * my,
            )
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert figure.value == pytest.approx(float(torch.stack(found).mean()), abs=1e-3)
    assert figure.value == pytest.approx(figure.baselines["night as it is"])


def test_pictures_that_are_absent_count(real):
    image = pictures(6)[0]
    made = image.clone()
    made[3:] = 0
    batch = told({"image": made, "map": image[:, 0]}, {"image": image}, {"image": torch.arange(6) < 3})
    figure = figures(real.scorers(Psnr(), "map -> image"), batch)["psnr", "image"]
    assert (figure.value, figure.n) == (100, 3)
    nothing = told({"image": made, "map": image[:, 0]}, {"image": image}, {"image": torch.zeros(6, dtype=torch.bool)})
    with pytest.raises(UserError, match="psnr of 0 samples"):
        figures(real.scorers(Psnr(), "map -> image"), nothing)
