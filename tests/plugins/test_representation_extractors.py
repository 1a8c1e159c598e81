"""Where representations come from: the self-trained network, published ones, files, and the cache before them all."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from torchvision import models

from mtdiff_core import FieldSpec, UserError, Workshop
from mtdiff_core.backbones.unet import UNet
from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.randomness import generator
from mtdiff_image.digits import Digits
from mtdiff_representation import Representation
from mtdiff_representation.cache import cached
from mtdiff_representation.extractors.self_trained import SelfTrained, Shrink
from mtdiff_representation.features_file import save_features
from mtdiff_representation.mixture import Mixture
from mtdiff_representation.vicreg import vicreg_loss
from mtdiff_representation.views import random_view
from tests.fake_timm import FakeTimm

NETWORK = "squeezenet1_1"  # the smallest that torchvision has


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A workshop whose cache, like that of everything else in the test, is empty at first."""
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    return Workshop(torch.device("cpu"), seed=0)


class Pictures(TensorSamples):
    """Random pictures; sample 3 has none."""

    def __init__(self, count=40, channels=1, size=8, seed=0):
        random = torch.Generator().manual_seed(seed)
        shape = (channels, size, size)
        pixels = torch.randint(0, 256, (count, *shape), generator=random, dtype=torch.uint8)
        super().__init__({"image": FieldSpec(shape=shape, dtype="uint8")}, {"image": pixels})
        self.pixels = pixels

    def __getitem__(self, index):
        return {} if index == 3 else super().__getitem__(index)


def fitted(workshop, samples=None, dimensions=4, **options):
    """A representation that has learnt from pictures, and the pictures."""
    samples = samples or Pictures()
    modality = Representation(dimensions=dimensions, **options)
    spec = samples.fields["image"]
    return modality.bind(spec, modality.bind(spec).fit(samples, "image", workshop)), samples


def small(workshop, samples=None, **options):
    return fitted(workshop, samples, **{"steps": 2, "width": 4, **options})


# Self-trained


def test_vectors_of_the_training_split_are_not_white(workshop):
    modality, samples = small(workshop)
    white = modality.derive(samples, "image", workshop)
    assert white.shape == (40, 4)
    own = white[[i for i in range(40) if i != 3]].double()
    torch.testing.assert_close(own.T @ own / 39, torch.eye(4).double(), atol=1e-2, rtol=0)


def test_the_head_s_prior_is_not_that_of_the_vectors_there_are(workshop):
    modality, samples = small(workshop, components=3)
    own = modality.derive(samples, "image", workshop)[[i for i in range(40) if i != 3]]
    expected, head = Mixture.fit(own, 3), modality.decoder((1, 8, 8), UNet(blocks=1).feature_shapes((1, 8, 8)))
    assert expected.mean.shape == (3, 4)
    for name in ("weight", "mean", "variance"):
        torch.testing.assert_close(getattr(head, f"prior_{name}"), getattr(expected, name), atol=1e-4, rtol=1e-3)


def test_a_given_picture_has_another_vector_than_the_same_one_in_the_data(workshop, tmp_path):
    modality, samples = small(workshop)
    derived = modality.derive(samples, "image", workshop)
    for i in (5, 6):
        Picture.fromarray(samples.pixels[i, 0].numpy()).save(tmp_path / f"{i}.png")
    torch.testing.assert_close(modality.parse(str(tmp_path / "5.png")), derived[5:6], atol=1e-4, rtol=0)
    torch.testing.assert_close(modality.parse(str(tmp_path)), derived[5:7], atol=1e-4, rtol=0)


def test_equal_seeds_give_other_networks_or_other_seeds_the_same(tmp_path):
    def weights(seed, cache):
        workshop = Workshop(torch.device("cpu"), seed=seed, cache=tmp_path / cache)
        return small(workshop)[0].state["network.stem.0.weight"]

    torch.manual_seed(5)
    one = weights(0, "a")
    assert weights(0, "b").equal(one)
    assert not weights(1, "c").equal(one)


def test_learning_disturbs_the_global_generator(workshop):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    small(workshop)
    assert torch.rand(3).equal(expected)


@pytest.mark.parametrize(("channels", "size"), [(1, 4), (3, 8), (3, 40)])
def test_pictures_of_some_size_or_colour_cannot_be_learnt_from(workshop, channels, size):
    modality, samples = small(workshop, Pictures(16, channels, size), resolution=32)
    assert modality.derive(samples, "image", workshop).isfinite().all()


def test_large_pictures_are_not_shrunk_or_small_ones_are():
    shrink = Shrink(16)
    assert shrink(torch.zeros(2, 3, 32, 48)).shape == (2, 3, 16, 24)
    assert shrink(torch.zeros(2, 3, 12, 20)).shape == (2, 3, 12, 20)


def test_too_few_pictures_are_learnt_from(workshop):
    with pytest.raises(UserError, match="1 pictures are too few to learn from"):
        small(workshop, Pictures(1))


def nearest_mean_accuracy(features, labels, test, test_labels):
    """A classifier as simple as can be: the class whose mean is nearest."""
    means = torch.stack([features[labels == k].mean(dim=0) for k in range(10)])
    return float((torch.cdist(test, means).argmin(dim=1) == test_labels).float().mean())


def test_a_few_steps_of_training_tell_digits_apart_no_better_than_none(workshop, monkeypatch):
    splits = [Digits(size=8).open(split) for split in ("train", "test")]
    labels = [torch.stack([samples[i]["label"] for i in range(len(samples))]) for samples in splits]

    def accuracy(steps):
        modality, _ = fitted(workshop, splits[0], dimensions=8, steps=steps, width=8)
        train, test = (modality.derive(samples, "image", workshop) for samples in splits)
        return nearest_mean_accuracy(train, labels[0], test, labels[1])

    trained = accuracy(30)
    monkeypatch.setattr("mtdiff_representation.vicreg.LEARNING_RATE", 0.0)
    assert trained > accuracy(31) + 0.05


# VICReg


def test_the_loss_is_not_what_the_paper_defines():
    one, other = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def terms(z):
        deviations = z - z.mean(dim=0)
        covariance = deviations.T @ deviations / 49
        spread = [max(0, 1 - (float(covariance[j, j]) + 1e-4) ** 0.5) for j in range(4)]
        return sum(spread) / 4, sum(float(covariance[i, j]) ** 2 for i in range(4) for j in range(4) if i != j) / 4

    (v1, c1), (v2, c2) = terms(one), terms(other)
    by_hand = 25 * float((one - other).square().sum(dim=1).mean()) / 4 + 25 * (v1 + v2) / 2 + c1 + c2
    assert float(vicreg_loss(one, other)) == pytest.approx(by_hand)


def test_a_collapsed_embedding_costs_little():
    assert vicreg_loss(torch.zeros(20, 4), torch.zeros(20, 4)) > 24


def blob(size=21):
    """A bright dot right of the middle and above it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    dot = 2 * torch.exp(-((x - 0.5) ** 2 + (y + 0.3) ** 2) / 0.05) - 1
    return dot.expand(64, 3, size, size)


def test_views_are_all_alike_or_leave_the_range():
    views = random_view(blob(), False, generator(0))
    assert views.shape == (64, 3, 21, 21)
    assert views.std(dim=0).max() > 0.1
    assert views.abs().max() < 1 + 1e-5
    assert random_view(blob(), False, generator(0)).equal(views)


def test_views_are_mirrored_unasked_or_never_when_asked():
    def right(flip):
        views = random_view(blob(), flip, generator(0))
        ink = (views.mean(dim=1) + 1).clamp(min=0)
        return ink[:, :, 11:].sum(dim=(1, 2)) > ink[:, :, :10].sum(dim=(1, 2))

    assert right(flip=False).all()
    assert 15 < right(flip=True).sum() < 49


# The cache


def test_what_is_in_the_cache_is_computed_again(workshop, monkeypatch):
    modality, samples = small(workshop)
    before = modality.derive(samples, "image", workshop)
    monkeypatch.setattr("mtdiff_representation.extractors.self_trained.train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(SelfTrained, "network", lambda *_: pytest.fail("extracted again"))
    another = Workshop(torch.device("cpu"), seed=0)
    again, _ = small(another)
    assert again.derive(samples, "image", another).equal(before)


def test_deriving_from_the_split_that_was_learnt_from_runs_the_network_again(workshop, monkeypatch):
    modality, samples = small(workshop)
    monkeypatch.setattr(SelfTrained, "network", lambda *_: pytest.fail("extracted again"))
    assert modality.derive(samples, "image", workshop).shape == (40, 4)


@pytest.mark.parametrize("options", [{"steps": 3}, {"width": 8}, {"flip": True}, {"resolution": 9}])
def test_other_options_share_a_cached_network(workshop, options):
    small(workshop)
    before = {path.name for path in (workshop.cache / "representation").glob("network-*")}
    small(workshop, **options)
    assert len(list((workshop.cache / "representation").glob("network-*"))) == len(before) + 1


def test_a_cache_of_other_data_is_taken(tmp_path):
    def compute(value):
        return lambda: {"x": torch.tensor([value])}

    cached(tmp_path, {"what": "w", "data": "one"}, compute(1.0))
    assert cached(tmp_path, {"what": "w", "data": "two"}, compute(2.0))["x"] == 2
    one, two = sorted((tmp_path / "representation").iterdir(), key=lambda path: float(load_file(path)["x"]))
    two.write_bytes(one.read_bytes())  # under the other's name
    assert cached(tmp_path, {"what": "w", "data": "two"}, compute(2.0))["x"] == 2
    assert cached(tmp_path, {"what": "w", "data": "one"}, compute(9.0))["x"] == 1


@pytest.mark.parametrize("content", [b"", b"cut short", b"\0" * 100])
def test_a_damaged_cache_is_taken_or_stays_damaged(tmp_path, content, caplog):
    def read(value):
        return cached(tmp_path, {"what": "w"}, lambda: {"x": torch.tensor([value])})["x"]

    read(1.0)
    (file,) = (tmp_path / "representation").iterdir()
    file.write_bytes(content)
    assert read(2.0) == 2
    assert "is computed again" in caplog.text
    assert read(3.0) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_a_flipped_bit_of_the_cache_gives_another_value_without_a_word(tmp_path, dtype, caplog):
    asked = []

    def read():
        def compute():
            asked.append(1)
            return {"one": torch.ones(3, 2, dtype=dtype), "two": torch.zeros((), dtype=dtype)}

        return cached(tmp_path, {"what": "w"}, compute)

    whole = read()
    (file,) = (tmp_path / "representation").iterdir()
    data = bytearray(file.read_bytes())
    data[-3 * dtype.itemsize] ^= 1  # of a tensor's content: the file is as well formed as before
    file.write_bytes(data)
    for _ in range(2):
        again = read()
        assert all(again[name].equal(tensor) for name, tensor in whole.items())
    assert caplog.messages == [f"{file} is not what was kept there, and is computed again"]
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_stops_the_run(tmp_path, caplog):
    (tmp_path / "representation").write_text("in the way")
    assert cached(tmp_path, {"what": "w"}, lambda: {"x": torch.ones(1)})["x"] == 1
    assert "not kept for another time" in caplog.text


# Networks of torchvision


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A safetensors file of random weights for the smallest network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(models.get_model(NETWORK, weights=None).state_dict(), path)
    return path


def of_torchvision(workshop, weights, **options):
    options = {"extractor": "torchvision", "network": NETWORK, "weights": str(weights), **options}
    return fitted(workshop, Pictures(8), dimensions=3, **options)


def test_torchvision_s_features_are_not_what_its_last_layer_reads(workshop, weights):
    modality, samples = of_torchvision(workshop, weights)
    pictures = samples.pixels[:2].expand(-1, 3, -1, -1)
    network = models.get_model(NETWORK, weights=None).eval()
    network.load_state_dict(load_file(weights))
    preset = models.get_model_weights(NETWORK).DEFAULT.transforms(resize_size=224)
    with torch.no_grad():
        expected = network.features(preset(pictures / 255)).relu().mean(dim=(2, 3))
    given = modality.features_of.of_pictures(samples.pixels[:2] / 127.5 - 1, modality.state)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)


def test_published_weights_are_saved_with_the_model_rather_than_their_checksum(workshop, weights):
    modality, _ = of_torchvision(workshop, weights)
    assert {name for name in modality.state if not name.startswith(("whitening.", "prior."))} == {"network_sha256"}
    assert modality.state["network_sha256"].shape == (32,)


def test_weights_that_were_swapped_after_training_are_taken(workshop, weights, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(weights.read_bytes())
    modality, samples = of_torchvision(workshop, path)
    save_file({name: x + 1 for name, x in load_file(path).items()}, path)
    Picture.fromarray(samples.pixels[0, 0].numpy()).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"mine\.safetensors: holds other weights than those"):
        modality.parse(str(tmp_path / "one.png"))


def other_network(path):
    save_file({"fc.weight": torch.ones(2, 2)}, path)


def other_shapes(path):
    save_file({**models.get_model(NETWORK, weights=None).state_dict(), "features.0.bias": torch.ones(2)}, path)


def a_pickle(path):
    torch.save({"fc.weight": torch.ones(2, 2)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (other_network, r"mine: does not hold the weights of 'squeezenet1_1'\n  (Missing|Unexpected)"),
        (other_shapes, r"mine: does not hold the weights of 'squeezenet1_1'\n  size mismatch"),
        (a_pickle, r"mine: is no safetensors file\n(.|\n)*save_file\(torch\.load"),
        (lambda path: None, "mine: cannot read weights: No such file"),
        (Path.mkdir, "mine: cannot read weights: Is a directory"),
    ],
)
def test_wrong_weights_are_taken(workshop, tmp_path, write, message):
    write(tmp_path / "mine")
    with pytest.raises(UserError, match=message):
        of_torchvision(workshop, tmp_path / "mine")


def test_a_misspelt_network_is_not_told_the_right_spelling(workshop, weights):
    with pytest.raises(UserError, match=r"network: torchvision has no network 'squeezenet_1'(.|\n)*'squeezenet1_1'"):
        of_torchvision(workshop, weights, network="squeezenet_1")


def download(monkeypatch, weights, error=None):
    """Let the download give these weights as torchvision publishes them, or fail."""
    asked = []

    def fetch(url, target, hash_prefix, progress):
        asked.append((url, hash_prefix))
        torch.save(load_file(weights), target)
        if error:
            raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    return asked


def test_weights_are_downloaded_unasked_twice_or_unchecked(workshop, weights, monkeypatch):
    asked = download(monkeypatch, weights)
    of_torchvision(workshop, weights)
    assert not asked
    one, _ = of_torchvision(workshop, "", download=True)
    of_torchvision(workshop, "", download=True)
    assert asked == [(models.get_model_weights(NETWORK).DEFAULT.url, "b8a52dc0")]
    assert one.state["network_sha256"].equal(of_torchvision(workshop, weights)[0].state["network_sha256"])
    assert [path.suffix for path in (workshop.cache / "torchvision").iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("invalid hash value"), r"the download is not what torchvision published \(invalid hash value\)"),
        (OSError("no network"), "cannot download https://download.pytorch.org.*: no network"),
    ],
)
def test_a_failed_download_is_taken_or_left_behind(workshop, weights, monkeypatch, error, message):
    download(monkeypatch, weights, error)
    with pytest.raises(UserError, match=message):
        of_torchvision(workshop, "", download=True)
    assert not list((workshop.cache / "torchvision").iterdir())


# Networks of timm


def of_timm(workshop, path, network="vit_tiny"):
    return fitted(workshop, dimensions=3, extractor="timm", network=network, weights=str(path))


@pytest.fixture
def timm_weights(tmp_path):
    torch.manual_seed(0)
    save_file(FakeTimm.network().state_dict(), tmp_path / "timm.safetensors")
    return tmp_path / "timm.safetensors"


def test_timm_s_features_are_not_those_before_its_classifier(workshop, timm_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    modality, samples = of_timm(workshop, timm_weights)
    pictures = samples.pixels[:2] / 127.5 - 1
    assert modality.features_of.of_pictures(pictures, modality.state).shape == (2, 5)
    assert modality.derive(samples, "image", workshop).shape == (40, 3)


def test_a_misspelt_network_of_timm_s_is_taken(workshop, timm_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    with pytest.raises(UserError, match=r"timm has no network 'vit_tny'(.|\n)*'vit_tiny'"):
        of_timm(workshop, timm_weights, network="vit_tny")


def test_wrong_weights_for_timm_are_taken(workshop, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    with pytest.raises(UserError, match="does not hold the weights of 'vit_tiny'"):
        of_timm(workshop, weights)


def test_a_missing_timm_is_reported_without_how_to_install_it(workshop, timm_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm, which is not installed\n.*pip install 'mtdiff\[timm\]'"):
        of_timm(workshop, timm_weights)


# Precomputed features


def precomputed(workshop, path, samples=None):
    return fitted(workshop, samples, dimensions=3, extractor="precomputed", features=str(path))


@pytest.fixture
def features_file(tmp_path):
    path = tmp_path / "features.safetensors"
    train, test = Pictures(), Pictures(10, seed=1)
    random = torch.Generator().manual_seed(0)
    splits = {
        split: (samples, torch.randn(len(samples), 6, generator=random))
        for split, samples in (("train", train), ("test", test))
    }
    save_features(path, "image", splits)
    return path


def test_a_split_gets_the_features_of_the_other(workshop, features_file):
    modality, train = precomputed(workshop, features_file)
    stored = load_file(features_file)
    both = {"representation": train, "representation_test": Pictures(10, seed=1)}
    for name, samples in both.items():
        features, _ = modality.features_of.of_split(samples, "image", modality.state, workshop)
        assert features.equal(stored[name])
        assert modality.derive(samples, "image", workshop).shape == (len(samples), 3)


def test_features_of_other_data_are_taken(workshop, features_file):
    with pytest.raises(UserError, match=r"features\.safetensors: holds features of other data(.|\n)*save_features"):
        precomputed(workshop, features_file, Pictures(seed=7))


def test_a_given_picture_is_turned_into_precomputed_features(workshop, features_file, tmp_path):
    modality, samples = precomputed(workshop, features_file)
    Picture.fromarray(samples.pixels[0, 0].numpy()).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="pictures cannot be turned into precomputed features"):
        modality.parse(str(tmp_path / "one.png"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot read precomputed features: No such file"),
        (lambda path: path.write_bytes(b"nothing"), r"is no file of precomputed features\n.*save_features"),
        (lambda path: save_file({"representation": torch.ones(40, 3)}, path), "holds features of other data"),
        (a_pickle, "is no file of precomputed features"),
    ],
)
def test_a_file_that_holds_no_features_is_taken(workshop, tmp_path, write, message):
    write(tmp_path / "mine")
    with pytest.raises(UserError, match=f"mine: {message}"):
        precomputed(workshop, tmp_path / "mine")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(39, 3), r"the train split: features are .* not float of shape \(40, F\)"),
        (torch.ones(40), "not float of shape"),
        (torch.ones(40, 3, dtype=torch.int64), "not float of shape"),
        (torch.full((40, 3), torch.nan), "features are not finite"),
    ],
)
def test_features_that_do_not_fit_their_data_are_written(tmp_path, features, message):
    with pytest.raises(UserError, match=message):
        save_features(tmp_path / "features", "image", {"train": (Pictures(), features)})
    assert not list(tmp_path.iterdir())
