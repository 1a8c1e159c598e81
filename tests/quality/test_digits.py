"""Recipes on digits, trained and judged as a user would run them: pytest -m quality -s tests/quality"""

import pytest
import torch

from mtdiff_core.cli.console import load_registry
from mtdiff_core.data.loading import kept_samples
from mtdiff_core.training.run import load_trained_model
from mtdiff_image.augment import moved
from tests.quality.judge import frechet_distance, train_judge
from tests.quality.runs import digits, nearest_of_100, psnr, report, sample, share, train, write_pictures

MASKS = ["0.25", "0.5", "half", "0.9"]
GREY = 0.5


@pytest.fixture(scope="module")
def judge():
    return train_judge(*digits("train"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return train("masked-image", 0, tmp_path_factory.mktemp("masked"))


@pytest.mark.quality
@pytest.mark.parametrize("mask", MASKS)
def test_restoring_a_hidden_part_is_no_better_than_leaving_it_or_the_mean(masked, judge, mask, tmp_path):
    (images, _), (truth, labels) = digits("train"), digits("test")
    pictures = write_pictures(truth, tmp_path / "pictures")
    found = sample(masked, tmp_path, "--given", f"masked_image={pictures}:{mask}", "--num", 1)
    restored, visible = found["image"], found["masked_image"][:, -1:] == 1
    assert restored[visible].equal(found["masked_image"][:, :-1][visible])
    torch.testing.assert_close(restored[visible], truth[visible])
    candidates = {
        "restored": restored,
        "grey": torch.where(visible, truth, GREY),
        "mean": torch.where(visible, truth, images.mean(dim=0)),
    }
    figures = {"hidden": share(~visible)}
    for name, one in candidates.items():
        figures[f"{name}_psnr"] = psnr(one, truth, ~visible)
        figures[f"{name}_accuracy"] = share(judge.labels(one) == labels)
    report(f"masked-image, {mask}, n = {len(truth)}", figures)
    assert figures["restored_psnr"] > figures["grey_psnr"]
    assert figures["restored_accuracy"] > max(figures["grey_accuracy"], figures["mean_accuracy"])


@pytest.mark.quality
def test_an_image_from_a_representation_is_seldom_nearest_to_it(judge, tmp_path):
    run = train("image+representation", 0, tmp_path)
    found = sample(run, tmp_path, "--given", "representation=@test", "--num", 200)
    trained = load_trained_model(run, load_registry(), torch.device("cpu"))
    own = trained.experiment.sources["representation"].modality.parse(
        str(write_pictures(found["image"], tmp_path / "made"))
    )
    joint = sample(run, tmp_path, "--num", 1000)
    figures = {
        "nearest_of_100": nearest_of_100(own, found["representation"]),
        "chance": 0.01,
        "joint_distance": frechet_distance(judge, joint["image"], digits("train")[0]),
        "correlation": torch.corrcoef(torch.stack([own.flatten(), found["representation"].flatten()]))[0, 1].item(),
    }
    report("image+representation, n = 2 x 100, joint n = 1000", figures)
    assert figures["nearest_of_100"] >= 0.6


def as_in_the_recipe(images):
    """Images 0..1, turned and moved as semi-supervised.toml does."""
    return moved(images * 2 - 1, 15, 1, torch.default_generator) / 2 + 0.5


@pytest.mark.quality
def test_one_label_in_ten_costs_much_or_a_plain_classifier_of_these_is_as_good(tmp_path):
    (images, labels), (truth, true_labels) = digits("train"), digits("test")
    pictures = write_pictures(truth, tmp_path / "pictures")
    figures = {}
    for name, options in {"tenth": [], "full": ["--set", "data.keep.label=1.0"]}.items():
        run = train("semi-supervised", 0, tmp_path, *options, name=f"semi-supervised-{name}")
        found = sample(run, tmp_path, "--given", f"image={pictures}")
        figures[name] = share(found["label"] == true_labels)
    kept = kept_samples(len(images), 0.1, 0, "label")  # those that the recipe keeps
    for name, augment in (("plain", lambda x: x), ("turned", as_in_the_recipe)):
        judges = [train_judge(images[kept], labels[kept], seed, 1500, augment) for seed in range(5)]
        right = [share(judge.labels(truth) == true_labels) for judge in judges]
        figures |= {f"{name}_classifier": sum(right) / 5, f"{name}_worst": min(right), f"{name}_best": max(right)}
    report(f"semi-supervised, n = {len(truth)}", figures)
    assert figures["tenth"] >= figures["full"] - 0.05
    assert figures["tenth"] > max(figures["plain_classifier"], figures["turned_classifier"])
