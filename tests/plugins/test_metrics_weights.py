"""Published networks from local files: what fits, what is refused, and that they compute what their papers say."""

import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torchmetrics.functional.image import lpips
from torchvision.models import ResNet18_Weights, inception_v3, resnet18, squeezenet1_1
from torchvision.models.inception import InceptionA, InceptionE

from mtdiff_core import ScoredBatch, UserError
from mtdiff_metrics import FrechetDistance, InceptionScore, KernelDistance, Lpips
from mtdiff_metrics.inception import Inception, _BlockWithMaxima, _without_padding, resized_like_tensorflow
from mtdiff_metrics.kernel import kernel_distance
from mtdiff_metrics.perceptual import PerceptualDistance
from mtdiff_metrics.published import Published
from mtdiff_metrics.weights import load_weights
from tests.fake_timm import FakeTimm
from tests.real_data import SmallData, figures, told

HOST = torch.device("cpu")


# Files


def test_a_pickle_or_what_is_no_file_is_taken_for_weights(tmp_path):
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "inception.pth")
    for name, complaint in (("inception.pth", "is no safetensors file\n.*to convert"), ("none", "No such file")):
        metric = FrechetDistance(features="inception", weights=str(tmp_path / name))
        with pytest.raises(UserError, match=complaint):
            SmallData(tmp_path).scorers(metric, "label -> image")


def test_weights_that_do_not_fit_are_taken_or_those_that_do_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    weights = {name: torch.ones_like(x) for name, x in network.state_dict().items() if "num_batches" not in name}
    load_weights(network, {**weights, "more": torch.ones(1)}, "file", "a network")
    assert network[0].weight.eq(1).all()
    with pytest.raises(UserError, match=r"file: does not hold the weights of a network: '0.bias' is missing"):
        load_weights(network, {name: x for name, x in weights.items() if name != "0.bias"}, "file", "a network")
    with pytest.raises(UserError, match=r"'0.bias' has the shape \(3,\), not \(2,\)"):
        load_weights(network, {**weights, "0.bias": torch.ones(3)}, "file", "a network")


# Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Files of random weights, as torchvision and torch-fidelity lay them out."""
    torch.manual_seed(0)
    state = inception_v3(weights=None, aux_logits=True, init_weights=False).state_dict()
    folder = tmp_path_factory.mktemp("inception")
    save_file(state, folder / "torchvision.safetensors")
    theirs = {name: x for name, x in state.items() if "AuxLogits" not in name and "num_batches" not in name}
    theirs |= {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.zeros(1008)}
    save_file(theirs, folder / "fidelity.safetensors")
    return folder


def test_features_of_torchvisions_inception_are_not_what_it_computes(inception):
    extractor = Inception(str(inception / "torchvision.safetensors"), HOST)
    network = inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    network.load_state_dict(load_file(inception / "torchvision.safetensors"))
    pictures = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network((pictures - mean) / std).softmax(dim=1)
    torch.testing.assert_close(extractor.probabilities(pictures), expected, rtol=1e-3, atol=1e-6)
    assert extractor.features(pictures).shape == (2, 2048)
    assert re.fullmatch(r"Inception-v3 of torchvision, weights [0-9a-f]{8}", extractor.name)


def test_tensorflows_inception_takes_no_small_grey_pictures_or_is_not_told_apart(inception):
    extractor = Inception(str(inception / "fidelity.safetensors"), HOST)
    assert re.fullmatch(r"Inception-v3 of TensorFlow, weights [0-9a-f]{8}", extractor.name)
    assert isinstance(extractor.network.Mixed_7c, _BlockWithMaxima)
    assert extractor.probabilities(torch.rand(1, 1, 8, 8)).shape == (1, 1008)


def test_averages_of_tensorflow_count_what_lies_beyond_the_border():
    torch.manual_seed(0)
    block, values = InceptionA(8, 4).eval(), torch.randn(2, 8, 6, 6)
    block.branch_pool.register_forward_pre_hook(_without_padding)
    with torch.no_grad():
        found = block(values)[:, -4:]
        averages = functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)
        convolved = functional.relu(block.branch_pool.bn(block.branch_pool.conv(averages)))
    torch.testing.assert_close(found, convolved)


def test_the_last_block_of_tensorflow_differs_in_more_than_its_pooling():
    torch.manual_seed(0)
    plain, ours = InceptionE(8).eval(), _BlockWithMaxima(8).eval()
    ours.load_state_dict(plain.state_dict())
    values = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        expected, found = plain(values), ours(values)
        pooled = ours.branch_pool(functional.max_pool2d(values, 3, stride=1, padding=1))
    torch.testing.assert_close(found[:, :-192], expected[:, :-192])
    torch.testing.assert_close(found[:, -192:], pooled)


def test_pictures_are_enlarged_otherwise_than_by_tensorflow():
    row = torch.tensor([0.0, 4.0])[None, None, None]
    found = resized_like_tensorflow(row.expand(1, 1, 2, 2), 4)
    # A pixel's place is its corner: half a pixel on lies half way, and nothing lies past the last.
    torch.testing.assert_close(found, torch.tensor([0.0, 2, 4, 4]).expand(1, 1, 4, 4))


def test_weights_of_another_network_are_taken_for_inceptions(tmp_path):
    save_file({"fc.weight": torch.zeros(10, 2048)}, tmp_path / "other.safetensors")
    metric = FrechetDistance(features="inception", weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match=r"fc.weight is for 10 classes\n.*1000 classes.*1008"):
        SmallData(tmp_path).scorers(metric, "label -> image")
    save_file({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"does not hold the weights of Inception-v3: .* is missing"):
        SmallData(tmp_path).scorers(metric, "label -> image")


# Any network of torchvision's or timm's


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A ResNet-18 of random weights, and its file."""
    torch.manual_seed(0)
    network = resnet18(weights=None).eval()
    path = tmp_path_factory.mktemp("resnet") / "resnet18.safetensors"
    save_file(network.state_dict(), path)
    return network, str(path)


def by_hand(network, pictures):
    """Features before the last layer of a ResNet, and probabilities after it, of pictures in 0..1."""
    preset = ResNet18_Weights.DEFAULT.transforms(resize_size=224)
    features = []
    with torch.no_grad(), network.avgpool.register_forward_hook(lambda _, __, out: features.append(out.flatten(1))):
        probabilities = network(preset(pictures.expand(-1, 3, -1, -1))).softmax(dim=1)
    return features[0], probabilities


def small_data(tmp_path):
    return SmallData(tmp_path, counts={"train": 6, "test": 4})


def test_features_of_a_network_of_torchvisions_are_not_what_its_last_layer_reads(resnet):
    network, path = resnet
    pictures = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    features, probabilities = by_hand(network, pictures)
    extractor = Published("torchvision", "resnet18", path, HOST)
    torch.testing.assert_close(extractor.features(pictures), features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(extractor.probabilities(pictures), probabilities, rtol=1e-3, atol=1e-6)


def test_a_figure_by_a_network_of_torchvisions_is_another_or_does_not_name_it(resnet, tmp_path):
    network, path = resnet
    real = small_data(tmp_path)
    pictures = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    chosen = {"features": "torchvision", "network": "resnet18", "weights": path}
    scorers = [one for kind in (KernelDistance, InceptionScore) for one in real.scorers(kind(**chosen), "-> image")]
    found = figures(scorers, ScoredBatch(values={"image": pictures}))
    (features, probabilities), (training, _) = (
        by_hand(network, x) for x in (pictures, real._splits["train"]["picture"].float() / 255)
    )
    distance, score = found["kernel_distance", "image"], found["inception_score", "image"]
    assert distance.value == pytest.approx(kernel_distance(features, training)[0], rel=1e-3, abs=1e-6)
    entropy = torch.special.entr(probabilities.mean(dim=0)).sum() - torch.special.entr(probabilities).sum(dim=1).mean()
    assert score.value == pytest.approx(float(entropy.exp()), rel=1e-4)
    assert re.fullmatch(r"resnet18 of torchvision, weights [0-9a-f]{8}", distance.features)
    assert score.features == distance.features


def test_other_weights_go_by_the_same_name_and_so_take_over_features(resnet, tmp_path):
    network, path = resnet
    other = tmp_path / "other.safetensors"
    save_file({name: 2 * x if name == "conv1.weight" else x for name, x in network.state_dict().items()}, other)
    names = [Published("torchvision", "resnet18", str(file), HOST).name for file in (path, path, other)]
    assert names[0] == names[1] != names[2]


def test_wrong_weights_or_a_misspelt_network_are_taken(resnet, squeezenet, tmp_path):
    torch.save({"fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18.pth")
    for options, complaint in (
        ({"weights": squeezenet[1]}, r"squeezenet.safetensors: does not hold the weights of 'resnet18'\n  Missing"),
        ({"weights": str(tmp_path / "resnet18.pth")}, r"is no safetensors file\n.*to convert"),
        ({"weights": str(tmp_path / "none")}, "none: cannot read weights: No such file"),
        (
            {"weights": resnet[1], "network": "resnet81"},
            r"torchvision has no network 'resnet81'\n.*'resnet18'",
        ),
    ):
        metric = FrechetDistance(**{"features": "torchvision", "network": "resnet18", **options})
        with pytest.raises(UserError, match=complaint):
            small_data(tmp_path).scorers(metric, "-> image")


def test_features_of_a_network_of_timms_are_not_what_its_last_layer_reads(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    torch.manual_seed(0)
    network = FakeTimm.network()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    pictures = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    extractor = Published("timm", "vit_tiny", str(tmp_path / "vit.safetensors"), HOST)
    with torch.no_grad():
        torch.testing.assert_close(extractor.features(pictures), network[:2](2 * pictures - 1))
    assert extractor.name.startswith("vit_tiny of timm, weights ")
    save_file({"1.weight": torch.zeros(2, 2)}, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of 'vit_tiny'"):
        Published("timm", "vit_tiny", str(tmp_path / "vit.safetensors"), HOST)


# LPIPS


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """A SqueezeNet of random weights, and its file."""
    torch.manual_seed(0)
    network = squeezenet1_1(weights=None).eval()
    path = tmp_path_factory.mktemp("lpips") / "squeezenet.safetensors"
    save_file(network.state_dict(), path)
    return network, str(path)


def test_lpips_is_not_the_papers(squeezenet):
    network, path = squeezenet
    random = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 3, 3, 64, 64, generator=random)
    linear = torch.load(lpips.__file__.replace("lpips.py", "lpips_models/squeeze.pth"), "cpu", weights_only=True)
    shift, scale = (torch.tensor(x)[:, None, None] for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    seen = [(2 * pictures - 1 - shift) / scale for pictures in pair]
    expected, level = torch.zeros(3), 0
    with torch.no_grad():
        for place, layer in enumerate(network.features):
            seen = [layer(x) for x in seen]
            if place in (1, 4, 7, 9, 10, 11, 12):
                one, other = (x / x.square().sum(dim=1, keepdim=True).sqrt() for x in seen)
                weights = linear[f"lin{level}.model.1.weight"]
                expected += functional.conv2d((one - other).square(), weights).mean(dim=(1, 2, 3))
                level += 1
    assert level == 7
    found = PerceptualDistance("squeeze", path, HOST)(*pair)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_lpips_sees_no_small_grey_pictures_or_a_difference_where_there_is_none(squeezenet, tmp_path):
    real = SmallData(tmp_path)
    image = real._splits["test"]["picture"][:6].float() / 255
    metric = Lpips(network="squeeze", weights=squeezenet[1])
    scorers = real.scorers(metric, "night -> image")
    figure = figures(scorers, told({"image": image, "night": image / 4}, {"image": image}))["lpips", "image"]
    assert figure.value == 0
    assert figure.features == "LPIPS on torchvision's squeezenet1_1"
    assert min(figure.baselines.values()) > 0
    assert set(figure.baselines) == {"mean training picture", "night as it is"}


def test_weights_of_another_network_are_taken_for_lpips(squeezenet, tmp_path):
    with pytest.raises(UserError, match="does not hold the weights of alexnet"):
        SmallData(tmp_path).scorers(Lpips(weights=squeezenet[1]), "map -> image")
    # A direction that it says nothing of needs no weights.
    assert SmallData(tmp_path).scorers(Lpips(weights="nowhere"), "image -> label") == []
