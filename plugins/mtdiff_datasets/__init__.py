"""Data sets: a procedural world, pairs of pictures, tables of files and values, shards, and some of torchvision's."""

from __future__ import annotations

from mtdiff_core import DatasetSource, hookimpl
from mtdiff_datasets.paired_folder import PairedFolder
from mtdiff_datasets.scenes import Scenes
from mtdiff_datasets.table import Table
from mtdiff_datasets.torchvision_sets import CIFAR10, MNIST, FashionMNIST, OxfordIIITPet
from mtdiff_datasets.webdataset import WebDataset

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_datasets() -> dict[str, type[DatasetSource]]:
    """Drawn, one's own, and well-known data sets."""
    return {
        "scenes": Scenes,
        "paired-folder": PairedFolder,
        "table": Table,
        "webdataset": WebDataset,
        "torchvision:MNIST": MNIST,
        "torchvision:FashionMNIST": FashionMNIST,
        "torchvision:CIFAR10": CIFAR10,
        "torchvision:OxfordIIITPet": OxfordIIITPet,
    }
