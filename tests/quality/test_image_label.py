"""The shipped recipe, trained and judged as a user would run it: pytest -m quality -s"""

import json

import pytest
import torch

from tests.quality.judge import frechet_distance, frechet_distance_of_features, train_judge
from tests.quality.runs import digits, mtdiff, report, sample, share, train, write_pictures

N = 1000


@pytest.fixture(scope="module")
def judge():
    return train_judge(*digits("train"))


@pytest.fixture(scope="module", params=[0, 1], ids=lambda seed: f"seed{seed}")
def run(request, tmp_path_factory):
    return train("image+label", request.param, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def figures(run, judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    (known, _), (test, test_labels) = digits("train"), digits("test")
    pictures = write_pictures(test, folder / "test")

    found = {"judge_accuracy": share(judge.labels(test) == test_labels)}
    found["distance_test"] = frechet_distance(judge, test, known)
    joint = sample(run, folder, "--num", N)
    found["joint_agreement"] = share(judge.labels(joint["image"]) == joint["label"])
    found["joint_distance"] = frechet_distance(judge, joint["image"], known)
    every_class = ",".join(map(str, range(10)))
    given = sample(run, folder, "--given", f"label={every_class}", "--num", N // 10)
    found["label_to_image"] = share(judge.labels(given["image"]) == given["label"])
    found["label_to_image_distance"] = frechet_distance(judge, given["image"], known)
    read = sample(run, folder, "--given", f"image={pictures}")
    found["image_to_label"] = share(read["label"] == test_labels)
    return report(f"{run.name}, n = {N}", found)


@pytest.mark.quality
@pytest.mark.parametrize(
    ("figure", "least"),
    [("judge_accuracy", 0.98), ("joint_agreement", 0.95), ("label_to_image", 0.95), ("image_to_label", 0.97)],
)
def test_a_share_is_too_small(figures, figure, least):
    assert figures[figure] >= least


@pytest.mark.quality
@pytest.mark.parametrize("figure", ["joint_distance", "label_to_image_distance"])
def test_samples_are_further_from_the_training_images_than_test_images_allow(figures, figure):
    assert figures[figure] <= 1.2 * figures["distance_test"]


@pytest.mark.quality
def test_a_solver_of_second_order_is_worse_in_20_steps_than_ddim_in_50(run, judge, tmp_path):
    (known, _), n, found = digits("train"), 2000, {}
    for sampler, steps in (("ddim", 50), ("dpmpp_2m", 20), ("dpmpp_2m_sde", 20)):
        made = sample(run, tmp_path, "--num", n, "--sampler", sampler, "--steps", steps)
        found[f"{sampler}_agreement"] = share(judge.labels(made["image"]) == made["label"])
        found[f"{sampler}_distance"] = frechet_distance(judge, made["image"], known)
    report(f"{run.name}, solvers, n = {n}", found)
    error = (found["ddim_agreement"] * (1 - found["ddim_agreement"]) / n) ** 0.5
    assert found["dpmpp_2m_agreement"] >= found["ddim_agreement"] - 2 * error
    assert found["dpmpp_2m_distance"] <= 1.05 * found["ddim_distance"]
    assert found["dpmpp_2m_sde_agreement"] >= found["ddim_agreement"]
    assert found["dpmpp_2m_sde_distance"] <= found["ddim_distance"]


@pytest.mark.quality
def test_generated_pairs_teach_a_classifier_much_less_than_the_real_ones(run, tmp_path):
    real = len(digits("train")[0])
    alone = ["--direction", "joint", "--no-bound", "--fewer-steps", ""]
    mtdiff("evaluate", run, "--metric", "train_on_synthetic", "--num", real, *alone, "--out", tmp_path)
    (joint,) = json.loads((tmp_path / "evaluation.json").read_text())["directions"]
    (figure,) = joint["figures"]
    found = {"on_synthetic": figure["value"], "on_real": figure["baselines"][f"trained on {real} real samples"]}
    report(f"{run.name}, trained on {figure['n']} generated samples", found)
    assert figure["n"] == real == 1500
    assert found["on_synthetic"] >= found["on_real"] - 0.05


def test_the_frechet_distance_is_not_that_of_two_gaussians():
    a = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = a * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -2.0])
    # diagonal covariances: |mu|^2 + sum (sigma_a - sigma_b)^2
    assert frechet_distance_of_features(a, b) == pytest.approx(1 + 4 + 1 + 0.25, rel=0.01)
