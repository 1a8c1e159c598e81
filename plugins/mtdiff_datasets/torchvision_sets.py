"""torchvision's data sets, read from disk by torchvision's own loaders; downloaded only where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from mtdiff_core import DatasetSource, FieldSpec, UserError, component, option
from mtdiff_core.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core import Samples, Split

SIZE = "height and width in pixels; pictures are resized and cropped to it"
TRIMAP = ("pet", "background", "border")  # 1, 2 and 3 in the files


@component
class TorchvisionSet(DatasetSource):
    """What all of torchvision's data sets share.

    Attributes:
        name: What torchvision calls it.
        layout: What its loader expects below ``root``.
    """

    name: ClassVar[str]
    layout: ClassVar[str]

    root: str = option(help="the folder that torchvision's data sets lie in")
    download: bool = option(False, help="download the data into root if it is not there")

    def _loaded(self, **choice: Any) -> Any:
        """The data set as torchvision loads it, at a choice of its options."""
        from torchvision import datasets

        with self._blamed():
            return getattr(datasets, self.name)(user_path(self.root), download=self.download, **choice)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn what torchvision raises for data that is absent or broken into a ``UserError``."""
        try:
            yield
        except (
            OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError, EOFError,
            SyntaxError,  # Pillow's for a broken PNG
        ) as error:  # fmt: skip
            # torchvision advises download=True, which is spelt otherwise in a recipe
            reason = str(error).split(". You can use")[0] or type(error).__name__
            raise UserError(
                f"{self.name} cannot be read ({reason})",
                self.root,
                f"expected {self.layout} below this folder; data.download = true downloads it",
            ) from error


@component
class InMemorySet(TorchvisionSet):
    """A data set whose loader holds all pictures in memory."""

    size: int = option(28, help=SIZE, minimum=4, maximum=256)

    def open(self, split: Split) -> Samples:
        """All pictures of a split, resized at once."""
        from mtdiff_core import TensorSamples
        from mtdiff_image.files import fit

        self._refuse_unsafe()
        images, labels, classes = self._tensors(split)
        resized = fit(images, self.size, self.size)  # (N, C, size, size)
        fields = {
            "image": FieldSpec(shape=tuple(resized.shape[1:]), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=classes),
        }
        return TensorSamples(fields, {"image": resized, "label": labels})

    def _refuse_unsafe(self) -> None:
        """Raise ``UserError`` if torchvision would unpickle a file that it has not checked."""

    def _tensors(self, split: Split) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Pictures, uint8 ``(N, C, H, W)``, labels, int64 ``(N,)``, and the names of the classes."""
        import torch

        loaded = self._loaded(train=split == "train")
        data, labels = torch.as_tensor(loaded.data), torch.as_tensor(loaded.targets)
        images = data.unsqueeze(1) if data.ndim == 3 else data.movedim(-1, 1)  # grey (N, H, W), colour (N, H, W, C)
        classes = tuple(name.split(" - ")[0] for name in loaded.classes)  # MNIST's are "0 - zero", "1 - one", ...
        if not len(images) or len(images) != len(labels):
            raise UserError(f"{self.name} has {len(images)} pictures and {len(labels)} labels", self.root)
        if labels.min() < 0 or labels.max() >= len(classes):
            raise UserError(f"{self.name} has a label beyond its {len(classes)} classes", self.root)
        return images, labels, classes


@component
class MNIST(InMemorySet):
    """MNIST, 28x28 grey handwritten digits: fields image and label; 60,000 to train, 10,000 to test."""

    name: ClassVar[str] = "MNIST"
    layout: ClassVar[str] = "MNIST/raw/train-images-idx3-ubyte and its three neighbours"

    def _refuse_unsafe(self) -> None:
        """Old torchvision kept pickled copies, which its loader still prefers to the raw files."""
        folder = user_path(self.root) / self.name / "processed"
        if any((folder / name).exists() for name in ("training.pt", "test.pt")):
            raise UserError(
                "holds pickled files of an old torchvision, which are not read",
                str(folder),
                f"remove this folder; the files in {self.name}/raw are enough",
            )


@component
class FashionMNIST(MNIST):
    """Fashion-MNIST, 28x28 grey pieces of clothing: fields image and label; 60,000 to train, 10,000 to test."""

    name: ClassVar[str] = "FashionMNIST"
    layout: ClassVar[str] = "FashionMNIST/raw/train-images-idx3-ubyte and its three neighbours"


@component
class CIFAR10(InMemorySet):
    """CIFAR-10, 32x32 colour pictures of ten things: fields image and label; 50,000 to train, 10,000 to test."""

    # Its batches are pickles. torchvision's constructor compares the md5 of every one with its own list before it
    # unpickles any (CIFAR10._check_integrity, and again in _load_meta), so that no other file is ever unpickled.
    name: ClassVar[str] = "CIFAR10"
    layout: ClassVar[str] = "cifar-10-batches-py/data_batch_1 and its neighbours"

    size: int = option(32, help=SIZE, minimum=4, maximum=256)


@component
class OxfordIIITPet(TorchvisionSet):
    """Oxford-IIIT Pets: fields image, label (37 breeds) and segmentation; 3,680 to train, 3,669 to test."""

    name: ClassVar[str] = "OxfordIIITPet"
    layout: ClassVar[str] = "oxford-iiit-pet/images and oxford-iiit-pet/annotations"

    size: int = option(64, help=SIZE, minimum=4, maximum=4096)
    max_bad: float = option(
        0.01, help="share of pictures that may be unreadable before the run stops", minimum=0, maximum=1
    )
    memory_mb: int = option(2048, help="pictures are kept in memory if they fit in so many MB", minimum=0)

    def open(self, split: Split) -> Samples:
        """The part "trainval" or "test"; pictures that cannot be read are left out, counted and listed once."""
        from mtdiff_image.reading import open_files

        part = "trainval" if split == "train" else "test"
        loaded = self._loaded(split=part, target_types=("category", "segmentation"))
        fields = {
            "image": FieldSpec(shape=(3, self.size, self.size), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=tuple(loaded.classes)),
            "segmentation": FieldSpec(shape=(self.size, self.size), dtype="uint8", classes=TRIMAP),
        }
        return open_files(
            fields,
            partial(self._read, loaded),
            len(loaded),
            where=self.root,
            noun="pictures",
            max_bad=self.max_bad,
            memory_mb=self.memory_mb,
        )

    def _read(self, loaded: Any, index: int) -> dict[str, Tensor]:
        """One pet, its breed, and which pixels are the pet."""
        import torch
        from torchvision.transforms.v2 import functional

        from mtdiff_image.files import fit

        with self._blamed():
            picture, (label, trimap) = loaded[index]
            image, regions = functional.pil_to_tensor(picture), functional.pil_to_tensor(trimap)
        if image.shape[1:] != regions.shape[1:] or regions.min() < 1 or regions.max() > len(TRIMAP):
            raise UserError(f"sample {index} of {self.name} has a picture and a trimap that do not fit", self.root)
        return {
            "image": fit(image, self.size, self.size),
            "label": torch.tensor(label),
            "segmentation": fit(regions, self.size, self.size, nearest=True)[0] - 1,
        }
