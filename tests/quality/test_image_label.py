"""The shipped recipe, trained and judged as a user would run it: pytest -m quality -s"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import to_pil_image

from mtdiff_image.digits import Digits
from tests.quality.judge import frechet_distance, frechet_distance_of_features, train_judge

RECIPE = Path(__file__).parents[2] / "recipes" / "image+label.toml"
N = 1000


def split(name):
    """Images (N, 1, 16, 16) in 0..1 and labels of a split."""
    samples = Digits(size=16).open(name)
    pairs = [samples[i] for i in range(len(samples))]
    return torch.stack([p["image"] for p in pairs]).float() / 255, torch.stack([p["label"] for p in pairs])


@pytest.fixture(scope="module")
def judge():
    return train_judge(*split("train"))


def mtdiff(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # all cores
    subprocess.run([sys.executable, "-m", "mtdiff_core.cli.main", *map(str, arguments)], check=True, env=environment)


def sample(run, out, *arguments):
    mtdiff("sample", run, "--out", out, *arguments)
    values = load_file(out / "samples.safetensors")
    return values["image"], values["label"]


@pytest.fixture(scope="module", params=[0, 1], ids=lambda seed: f"seed{seed}")
def figures(request, judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    mtdiff("run", RECIPE, "--seed", request.param, "--out", folder / "run")
    (train, _), (test, test_labels) = split("train"), split("test")
    (folder / "test").mkdir()
    for i, image in enumerate(test):
        to_pil_image(image).save(folder / "test" / f"{i:03}.png")

    found = {"judge_accuracy": share(judge.labels(test) == test_labels)}
    found["distance_test"] = frechet_distance(judge, test, train)
    images, labels = sample(folder / "run", folder / "joint", "--num", N)
    found["joint_agreement"] = share(judge.labels(images) == labels)
    found["joint_distance"] = frechet_distance(judge, images, train)
    every_class = ",".join(map(str, range(10)))
    images, labels = sample(folder / "run", folder / "given_label", "--given", f"label={every_class}", "--num", N // 10)
    found["label_to_image"] = share(judge.labels(images) == labels)
    found["label_to_image_distance"] = frechet_distance(judge, images, train)
    _, labels = sample(folder / "run", folder / "given_image", "--given", f"image={folder / 'test'}")
    found["image_to_label"] = share(labels == test_labels)
    print(f"\nseed {request.param}: " + json.dumps({name: round(value, 4) for name, value in found.items()}))
    return found


def share(right):
    return right.float().mean().item()


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


def test_the_frechet_distance_is_not_that_of_two_gaussians():
    a = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = a * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -2.0])
    # diagonal covariances: |mu|^2 + sum (sigma_a - sigma_b)^2
    assert frechet_distance_of_features(a, b) == pytest.approx(1 + 4 + 1 + 0.25, rel=0.01)
