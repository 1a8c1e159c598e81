"""Metrics of generated pictures as a whole: which directions they speak of, and what their figures say."""

import pytest
import torch

from mtdiff_core import ScoredBatch, UserError
from mtdiff_metrics import FrechetDistance, InceptionScore, KernelDistance, NearestTraining, PrecisionRecall
from mtdiff_metrics.extractors import Extractor
from mtdiff_metrics.frechet import Reference, frechet_distance
from tests.real_data import SmallData, figures, squares


class Corner(Extractor):
    """Nine pixels of a picture as its features, and how bright it is as its class."""

    name = "nine pixels"

    def features(self, pictures):
        return pictures[:, 0, 2:11:4, 2:11:4].flatten(1)

    def probabilities(self, pictures):
        bright = pictures.mean(dim=(1, 2, 3))
        return torch.stack([bright, 1 - bright], dim=1)


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Data whose pictures are looked at by nine pixels; no judge is trained."""
    monkeypatch.setattr("mtdiff_metrics.extractors.extractor_of", lambda *arguments: Corner())
    return SmallData(tmp_path)


def made(count=60, seed=9, shift=0.0):
    """Batches of pictures of the same distribution, or brighter by so much."""
    pictures = (squares(count, seed)["picture"].float() / 255 + shift).clamp(0, 1)
    return [ScoredBatch(values={"image": part}) for part in pictures.split(25)]


def pixels(data, split):
    return data._splits[split]["picture"].float() / 255


ALL = [FrechetDistance(), KernelDistance(), InceptionScore(), PrecisionRecall(), NearestTraining()]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_a_direction_without_generated_pictures_has_a_figure(real, metric):
    for direction in ("image -> label", "image -> hidden", "image -> map + vector"):
        assert real.scorers(metric, direction) == []


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_one_of_two_pictures_has_no_figure_or_a_given_one_has(real, metric):
    assert len(real.scorers(metric, "-> image + night + hidden + label")) == 2
    (scorer,) = real.scorers(metric, "image + label -> night")
    assert scorer.modality == "night"


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_a_figure_lacks_what_is_needed_to_read_it(real, metric):
    for name, figure in figures(real.scorers(metric, "label -> image"), *made()).items():
        assert name[1:] == ("image",)
        count = len(pixels(real, "train")) if name[0] == "recall" else 60  # recall is a share of the training split
        assert figure.n == count
        assert figure.interval[0] < figure.interval[1]
        assert set(figure.baselines) == {f"test split, n = {len(pixels(real, 'test'))}"}
        assert figure.features == ("" if metric is ALL[-1] else "nine pixels")


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_data_without_a_test_split_cannot_be_measured(tmp_path, real, metric):
    alone = SmallData(tmp_path, counts={"train": 100})
    for figure in figures(alone.scorers(metric, "-> image"), *made()).values():
        assert figure.baselines == {}


def test_a_test_split_that_cannot_be_read_is_taken_for_none(real, monkeypatch):
    def batches(split, as_it_is=real.batches):
        if split == "test":
            raise UserError("cannot be read")
        return as_it_is(split)

    monkeypatch.setattr(real, "batches", batches)
    with pytest.raises(UserError, match="cannot be read"):
        figures(real.scorers(ALL[-1], "-> image"), *made())


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_pictures_of_a_diverged_model_have_a_figure(real, metric):
    (scorer,) = real.scorers(metric, "-> image")
    with pytest.raises(UserError, match="'image' are not finite"):
        scorer.update(ScoredBatch(values={"image": torch.full((4, 1, 12, 12), torch.nan)}))


def test_the_frechet_figure_is_not_the_distance_to_the_training_split(real):
    figure = figures(real.scorers(FrechetDistance(), "-> image"), *made(shift=0.1))["frechet_distance", "image"]
    reference = Reference.fit(Corner().features(pixels(real, "train")))
    rows = torch.cat([Corner().features(batch.values["image"]) for batch in made(shift=0.1)])
    assert figure.value == pytest.approx(float(frechet_distance(rows[None], reference)), rel=1e-5)
    test = Corner().features(pixels(real, "test"))
    (baseline,) = figure.baselines.values()
    assert baseline == pytest.approx(float(frechet_distance(test[None], reference)), rel=1e-5)
    assert baseline < figure.value
    assert figure.better == "lower"


def test_a_covariance_is_fitted_to_fewer_samples_than_features(real):
    scorers = real.scorers(FrechetDistance(), "-> image")
    with pytest.raises(
        UserError, match=r"of 9 samples would mean nothing: its covariance of 9 features.*\n.*generate 10"
    ):
        figures(scorers, *made(count=9))


@pytest.mark.parametrize(
    ("metric", "count"), [(KernelDistance(), 2), (InceptionScore(), 1), (PrecisionRecall(), 3), (NearestTraining(), 1)]
)
def test_a_handful_of_samples_has_a_figure(real, metric, count):
    with pytest.raises(UserError, match=f"of {count} samples would mean nothing"):
        figures(real.scorers(metric, "-> image"), *made(count=count))


def test_a_scorer_that_saw_nothing_fails_otherwise_than_for_want_of_samples(real):
    for metric in ALL:
        with pytest.raises(UserError, match="of 0 samples"):
            figures(real.scorers(metric, "-> image"))


def test_brighter_pictures_are_as_near_in_the_kernel_distance(real):
    plain, bright = (
        figures(real.scorers(KernelDistance(), "-> image"), *made(shift=shift))["kernel_distance", "image"]
        for shift in (0.0, 0.3)
    )
    assert plain.interval[1] < bright.interval[0]
    assert plain.interval[0] < plain.value < plain.interval[1]


def test_pictures_unlike_any_are_precise_or_copies_of_one_have_recall(real):
    def both(batches):
        found = figures(real.scorers(PrecisionRecall(), "-> image"), *batches)
        return found["precision", "image"].value, found["recall", "image"].value

    precision, recall = both(made())
    assert precision > 0.5
    assert recall > 0.3
    assert both(made(shift=0.6)) < (0.1, 0.1)
    one = pixels(real, "train")[:1].expand(30, -1, -1, -1)
    assert both([ScoredBatch(values={"image": one})]) == (1.0, pytest.approx(0, abs=0.02))


def test_copies_of_training_pictures_are_not_found_out(real):
    figure = figures(real.scorers(NearestTraining(), "-> image"), *made())["nearest_training", "image"]
    copies = ScoredBatch(values={"image": pixels(real, "train")[:40] + 0.001})
    copied = figures(real.scorers(NearestTraining(), "-> image"), copies)["nearest_training", "image"]
    assert copied.value == pytest.approx(0.001, abs=2e-4)
    assert copied.value < figure.value / 10
    (baseline,) = figure.baselines.values()
    assert 0.5 < figure.value / baseline < 2
    train, test = pixels(real, "train").flatten(1), pixels(real, "test").flatten(1)
    by_hand = (test[:, None] - train).square().mean(dim=2).amin(dim=1).sqrt().median()
    assert baseline == pytest.approx(float(by_hand), abs=1e-5)


def test_an_inception_score_without_classes(tmp_path, real):
    assert SmallData(tmp_path, names=("picture",)).scorers(InceptionScore(), "-> image") == []


def test_options_that_contradict_each_other_are_taken():
    with pytest.raises(ValueError, match="weights: features = 'inception' needs a file"):
        FrechetDistance(features="inception")
    with pytest.raises(ValueError, match="weights: is read with features = 'inception', 'torchvision', 'timm', not"):
        KernelDistance(weights="file")
    with pytest.raises(ValueError, match="network: is read with features = 'torchvision', 'timm', not with"):
        KernelDistance(features="inception", network="resnet18", weights="file")
    for features in ("torchvision", "timm"):
        with pytest.raises(ValueError, match=f"network: features = '{features}' needs the name of a network"):
            FrechetDistance(features=features, weights="file")
        with pytest.raises(ValueError, match=f"weights: features = '{features}' needs a file; nothing is downloaded"):
            FrechetDistance(features=features, network="resnet18")
    with pytest.raises(ValueError, match="features: networks of 'timm' are taken without classes"):
        InceptionScore(features="timm", network="vit_tiny", weights="file")


def test_samples_that_lack_the_picture_are_training_pictures(tmp_path, real):
    lacking = SmallData(tmp_path, lacking={"picture": 2})
    (scorer,) = lacking.scorers(NearestTraining(), "-> image")
    present = figures([scorer], ScoredBatch(values={"image": pixels(lacking, "train")[1::2]}))
    absent = figures(
        lacking.scorers(NearestTraining(), "-> image"), ScoredBatch(values={"image": pixels(lacking, "train")[::2]})
    )
    assert present["nearest_training", "image"].value < 1e-3 < absent["nearest_training", "image"].value


def test_more_pictures_than_memory_holds_are_all_kept(tmp_path, real, monkeypatch):
    from mtdiff_metrics.data import pictures_of

    monkeypatch.setattr("mtdiff_metrics.data.MEMORY", 40 * 144)
    kept = pictures_of(SmallData(tmp_path), "image", "train")
    assert kept.rows.tolist() == list(range(0, 150, 4))
    torch.testing.assert_close(kept.pixels, real._splits["train"]["picture"][::4])


def test_a_metric_is_not_offered_or_does_not_say_what_it_needs(registry):
    offered = {one.name: one.cls for one in registry.components() if one.kind == "metric"}
    assert set(offered) >= {
        "frechet_distance", "kernel_distance", "inception_score", "precision_recall", "nearest_training", "accuracy",
        "calibration_error", "mean_iou", "retrieval", "psnr", "ssim", "lpips", "agreement", "train_on_synthetic",
    }  # fmt: skip
    assert all(cls.needs for cls in offered.values())
    assert {name for name, cls in offered.items() if cls.costly} == {"lpips", "train_on_synthetic"}
