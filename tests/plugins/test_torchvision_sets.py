"""torchvision's data sets, on tiny files in their layouts on disk; nothing is downloaded, nothing foreign unpickled."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torchvision import datasets

from mtdiff_core import UserError
from mtdiff_datasets import CIFAR10, MNIST, FashionMNIST, OxfordIIITPet

SIZE = 8


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("the network was used")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def grey(index, size):
    """A picture whose pixels all say ``20 index``."""
    return np.full((size, size), 20 * index, dtype=np.uint8)


def open_set(cls, root, split="train", **options):
    return cls(**{"root": str(root), "size": SIZE, **options}).open(split)


def shades(samples):
    return [int(samples[i]["image"].float().mean()) for i in range(len(samples))]


def labels(samples):
    return [int(samples[i]["label"]) for i in range(len(samples))]


# MNIST and its like: IDX files


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root, name, train_labels=(3, 0, 9)):
    for part, classes in (("train", train_labels), ("t10k", (1, 2))):
        images = np.stack([grey(i + 1 + 5 * (part == "t10k"), 28) for i in range(len(classes))])
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", np.array(classes, dtype=np.uint8))


@pytest.mark.parametrize(("cls", "name"), [(MNIST, "MNIST"), (FashionMNIST, "FashionMNIST")])
@pytest.mark.parametrize("size", [8, 28])
def test_idx_files_are_read_wrongly(tmp_path, cls, name, size):
    write_mnist(tmp_path, name)
    train, test = (open_set(cls, tmp_path, split, size=size) for split in ("train", "test"))
    assert shades(train) == [20, 40, 60]
    assert labels(train) == [3, 0, 9]
    assert shades(test) == [120, 140]
    assert labels(test) == [1, 2]
    assert train.fields["image"].shape == train[0]["image"].shape == (1, size, size)
    assert train[0]["image"].dtype == torch.uint8
    assert len(train.fields["label"].classes) == 10


def test_a_digit_is_called_otherwise_than_itself(tmp_path):
    write_mnist(tmp_path, "MNIST")
    assert open_set(MNIST, tmp_path).fields["label"].classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: (raw / "train-images-idx3-ubyte").unlink(), "Dataset not found"),
        (lambda raw: (raw / "train-images-idx3-ubyte").write_bytes(b""), "MNIST cannot be read"),
        (lambda raw: (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x03"), "MNIST cannot be read"),
        (lambda raw: (raw / "train-labels-idx1-ubyte").write_bytes(b"no labels at all"), "MNIST cannot be read"),
        (lambda raw: write_idx(raw / "train-labels-idx1-ubyte", np.zeros(2, np.uint8)), "3 pictures and 2 labels"),
        (lambda raw: write_idx(raw / "train-labels-idx1-ubyte", np.full(3, 10, np.uint8)), "beyond its 10 classes"),
    ],
    ids=["absent", "empty", "cut", "no idx", "too few labels", "a label too large"],
)
def test_broken_idx_files_are_read_or_end_in_a_traceback(tmp_path, damage, message):
    write_mnist(tmp_path, "MNIST")
    damage(tmp_path / "MNIST" / "raw")
    with pytest.raises(UserError, match=message) as caught:
        open_set(MNIST, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, CIFAR10, OxfordIIITPet])
def test_data_that_is_not_there_is_downloaded_unasked_or_reported_without_the_way_to_get_it(tmp_path, cls):
    with pytest.raises(UserError, match=rf"{cls.name} cannot be read \(Dataset not found.*\)\n.*download = true"):
        open_set(cls, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cls", [MNIST, CIFAR10, OxfordIIITPet])
def test_a_recipe_that_asks_for_it_does_not_make_torchvision_download(tmp_path, monkeypatch, cls):
    asked = []

    def download(url, *_arguments, **_options):
        asked.append(url)
        raise OSError("no route to host")

    for module in ("mnist", "cifar", "oxford_iiit_pet"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", download)
    with pytest.raises(UserError, match="no route to host"):
        open_set(cls, tmp_path, download=True)
    assert asked


# Pickles


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_pickles_of_an_old_torchvision_are_opened(tmp_path, cls):
    write_mnist(tmp_path, cls.name)
    folder = tmp_path / cls.name / "processed"
    folder.mkdir()
    for name in ("training.pt", "test.pt"):
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"processed: holds pickled files.*\n.*remove this folder"):
        open_set(cls, tmp_path)
    assert not (tmp_path / "sprung").exists()


def write_cifar(root, monkeypatch, known=True):
    """Two training batches and a test batch, whose checksums torchvision knows or does not know."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(*indices):
        data = np.stack([np.tile(grey(i, 32).flatten(), 3) for i in indices])
        data[:, :1024] = 255  # red
        return {"data": data, "labels": list(indices)}

    train, test = [write("data_batch_1", batch(1, 2)), write("data_batch_2", batch(3))], [write("test_batch", batch(4))]
    meta = write("batches.meta", {"label_names": [f"thing {i}" for i in range(10)]})
    if known:
        monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
        monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
        monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return folder


def test_cifar_batches_are_read_wrongly(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    train, test = (open_set(CIFAR10, tmp_path, split) for split in ("train", "test"))
    assert labels(train) == [1, 2, 3]
    assert labels(test) == [4]
    assert train.fields["image"].shape == train[0]["image"].shape == (3, SIZE, SIZE)
    assert train[1]["image"].float().mean(dim=(1, 2)).tolist() == [255, 40, 40]
    assert train.fields["label"].classes == tuple(f"thing {i}" for i in range(10))


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"])
def test_a_cifar_batch_with_another_checksum_is_unpickled(tmp_path, monkeypatch, name):
    folder = write_cifar(tmp_path, monkeypatch)
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"CIFAR10 cannot be read .*corrupted"):
        open_set(CIFAR10, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_checksums_of_the_file_s_own_choice_are_trusted(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, known=False)
    with pytest.raises(UserError, match="CIFAR10 cannot be read"):
        open_set(CIFAR10, tmp_path)


# Pets


def write_pets(root, train=("Abyssinian_1", "great_dane_7", "Abyssinian_2")):
    """Pictures of 20x10: the pet in the middle, its border left of it, background right of it."""
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for part, names in (("trainval", train), ("test", ("great_dane_1", "Abyssinian_9"))):
        lines = []
        for i, name in enumerate(names):
            Picture.new("RGB", (20, 10), (20 * i, 0, 0)).save(folder / "images" / f"{name}.jpg", quality=95)
            trimap = np.full((10, 20), 1, dtype=np.uint8)
            trimap[:, :8], trimap[:, 12:] = 3, 2
            Picture.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")
            lines.append(f"{name} {1 if name.startswith('A') else 2} 1 1\n")
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_pets_are_read_wrongly(tmp_path, memory_mb):
    write_pets(tmp_path)
    samples = open_set(OxfordIIITPet, tmp_path, size=10, memory_mb=memory_mb)
    assert labels(samples) == [0, 1, 0]
    assert samples.fields["label"].classes == ("Abyssinian", "Great Dane")
    assert [round(int(samples[i]["image"][0, 5, 5]) / 20) for i in range(3)] == [0, 1, 2]
    assert samples.fields["segmentation"].classes == ("pet", "background", "border")
    middle = [2] * 3 + [0] * 4 + [1] * 3  # columns 5 to 15 of 20
    assert samples[0]["segmentation"].tolist() == [middle] * 10
    assert samples[0]["segmentation"].dtype == torch.uint8
    assert labels(open_set(OxfordIIITPet, tmp_path, "test")) == [1, 0]


def spoil_picture(folder):
    (folder / "images" / "great_dane_7.jpg").write_bytes(b"no picture")


def drop_trimap(folder):
    (folder / "annotations" / "trimaps" / "great_dane_7.png").unlink()


def shrink_trimap(folder):
    Picture.new("L", (10, 10), 1).save(folder / "annotations" / "trimaps" / "great_dane_7.png")


def blank_trimap(folder):
    Picture.new("L", (20, 10), 0).save(folder / "annotations" / "trimaps" / "great_dane_7.png")


def break_trimap(folder):
    file = folder / "annotations" / "trimaps" / "great_dane_7.png"
    data = file.read_bytes()
    place = data.index(b"IDAT")
    file.write_bytes(data[:place] + b"\xc2DAT" + data[place + 4 :])


@pytest.mark.parametrize("damage", [spoil_picture, drop_trimap, shrink_trimap, blank_trimap, break_trimap])
def test_a_pet_that_cannot_be_read_is_shown_or_hides_how_many_there_are(tmp_path, damage):
    damage(write_pets(tmp_path))
    with pytest.raises(UserError, match=r"1 of 3 pictures cannot be read, more than max_bad = 0\.01"):
        open_set(OxfordIIITPet, tmp_path)
    assert labels(open_set(OxfordIIITPet, tmp_path, max_bad=0.5)) == [0, 0]


def test_annotations_that_are_not_understood_end_in_a_traceback(tmp_path):
    (write_pets(tmp_path) / "annotations" / "trainval.txt").write_text("Abyssinian_1 one\n")
    with pytest.raises(UserError, match="OxfordIIITPet cannot be read"):
        open_set(OxfordIIITPet, tmp_path)
