"""Every component that comes with mtdiff is checked by the kit of its kind, and by nothing weaker."""

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from mtdiff_core.data.packing import pack
from mtdiff_core.registry.registry import Registry
from mtdiff_core.testing import KITS
from mtdiff_image import Digits
from tests.plugins.test_torchvision_sets import write_cifar, write_mnist, write_pets

# It can only be the anchor, and what it loses of a picture does not come back: see tests/plugins/test_diffusers.py.
LOSSY = ("latent-image",)
BUILTIN = [
    component
    for component in Registry().components()
    if component.plugin.package == "mtdiff"
    and component.kind != "schedule"  # a schedule promises hardly anything
    and component.name not in LOSSY
]
DIFFUSERS = {"channels": (8,), "attention": (8,), "head_channels": 8, "norm_groups": 4}
SMALL = {
    "paired_image": {"hidden": 16, "blocks": 1},
    "representation": {"steps": 2, "dimensions": 4},
    "unet": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 8},
    "diffusers-unet": DIFFUSERS,
    "diffusers-conditional-unet": {**DIFFUSERS, "context_channels": 8},
    "diffusers-dit": {"layers": 1, "heads": 1, "head_channels": 8, "features": 8},
    "scenes": {"size": 16, "train": 40, "test": 20},
}
SLOW = ("frechet_distance", "lpips", "train_on_synthetic")


def pictures(folder, names):
    """Picture files of these names."""
    random = torch.Generator().manual_seed(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (8, 16, 3), generator=random, dtype=torch.uint8)
        Picture.fromarray(pixels.numpy()).save(path)


def image_folder(folder, _monkeypatch):
    pictures(folder, [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(6)])
    return {"path": str(folder), "size": 8, "test_share": 0.3}


def paired_folder(folder, _monkeypatch):
    pictures(folder, [f"{split}/{i}.png" for split in ("train", "test") for i in range(4)])
    return {"path": str(folder), "size": 8}


def table(folder, _monkeypatch):
    pictures(folder, [f"{i}.png" for i in range(12)])
    rows = [f'{i}.png,{"cat" if i % 3 else ""},"[{i}, 1]"' for i in range(12)]
    (folder / "table.csv").write_text("\n".join(["picture,kind,where", *rows]))
    columns = {"pictures": ("picture",), "labels": ("kind",), "vectors": ("where",)}
    return {"path": str(folder / "table.csv"), **columns, "size": 8, "test_share": 0.3}


def webdataset(folder, _monkeypatch):
    for split in ("train", "test"):
        samples = Digits(size=8).open(split)
        samples._tensors = {name: x[:20] for name, x in samples._tensors.items()}
        pack(samples, folder / split, 7, False, {"dataset": "digits"})
    return {"train": str(folder / "train"), "test": str(folder / "test")}


def mnist(folder, _monkeypatch):
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(folder, name)
    return {"root": str(folder), "size": 8}


def cifar(folder, monkeypatch):
    write_cifar(folder, monkeypatch)
    return {"root": str(folder), "size": 8}


def pets(folder, _monkeypatch):
    write_pets(folder)
    return {"root": str(folder), "size": 8}


def lpips(folder, _monkeypatch):
    torch.manual_seed(0)
    save_file(squeezenet1_1(weights=None).state_dict(), folder / "squeezenet.safetensors")
    return {"network": "squeeze", "weights": str(folder / "squeezenet.safetensors")}


# What has to lie on the disk before a component works.
PREPARED = {
    "image-folder": image_folder,
    "paired-folder": paired_folder,
    "table": table,
    "webdataset": webdataset,
    "torchvision:MNIST": mnist,
    "torchvision:FashionMNIST": mnist,
    "torchvision:CIFAR10": cifar,
    "torchvision:OxfordIIITPet": pets,
    "lpips": lpips,
}


@pytest.fixture(autouse=True)
def _hasty_judges(monkeypatch):
    """Whether metrics keep their promises does not depend on how well their judges were trained."""
    monkeypatch.setattr("mtdiff_metrics.network.STEPS", 5)
    monkeypatch.setattr("mtdiff_metrics.network.MAP_STEPS", 5)
    monkeypatch.setattr("mtdiff_metrics.perceptual.SMALLEST", 32)


@pytest.mark.parametrize("component", BUILTIN, ids=lambda component: f"{component.kind}-{component.name}")
def test_a_component_that_comes_with_mtdiff_breaks_a_promise(component, tmp_path, monkeypatch):
    options = dict(SMALL.get(component.name, {}))
    if component.name in PREPARED:
        options |= PREPARED[component.name](tmp_path, monkeypatch)
    kit = type("TestIt", (KITS[component.kind],), {"component": component.name, "options": options})
    if component.name in SLOW:
        kit.most_directions = 1
    results = kit.run()
    assert {result.name: result.message for result in results if not result.passed} == {}
    assert sum(not result.skipped_reason for result in results) > len(results) / 2, "hardly anything was checked"


def test_no_component_was_looked_for():
    assert {component.kind for component in BUILTIN} == set(KITS)
    assert len(BUILTIN) > 30
