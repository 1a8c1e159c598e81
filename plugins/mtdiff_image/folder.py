"""The user's own pictures: a folder, with a sub-folder for each class if there are classes."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mtdiff_core import DatasetSource, FieldSpec, MissingSplitError, UserError, component, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mtdiff_core import Samples, Shape, Split

log = logging.getLogger(__name__)

LAYOUT = """expected one folder for each class:
    PATH/cat/001.png  PATH/cat/002.jpg  PATH/dog/001.webp ...
  or, without labels, the pictures themselves: PATH/001.png ...
  or either of these below PATH/train and PATH/test"""


@component
class ImageFolder(DatasetSource):
    """Your own pictures (PNG, JPEG, WebP) in class folders: fields image and, where there are classes, label."""

    path: str = option(help="the folder")
    size: int = option(
        64, help="height and width in pixels; pictures are resized and cropped to it", minimum=4, maximum=4096
    )
    colour: bool = option(True, help="true for RGB, false for grey")
    test_share: float = option(
        0.1,
        help="share held out as the test split, where there are no folders train and test",
        minimum=0,
        maximum=0.9,
    )
    max_bad: float = option(
        0.01, help="share of files that may be unreadable before the run stops", minimum=0, maximum=1
    )
    memory_mb: int = option(2048, help="pictures are kept in memory if they fit in so many MB", minimum=0)

    def open(self, split: Split) -> Samples:
        """Open one split; unreadable files are left out, counted and listed once."""
        folder, files, classes = self._files(split)
        loose = [path for path in files if path.parent == folder]
        if classes and loose:
            raise UserError(
                f"{len(loose)} pictures, such as {loose[0].name}, lie beside the class folders",
                str(folder),
                LAYOUT,
            )
        shape = (3 if self.colour else 1, self.size, self.size)
        fields = {"image": FieldSpec(shape=shape, dtype="uint8")}
        if classes:
            fields["label"] = FieldSpec(shape=(), dtype="int64", classes=classes)
        labels = [classes.index(path.relative_to(folder).parts[0]) for path in files] if classes else None
        reader = PictureReader(shape, self.max_bad, total=len(files), where=str(folder))
        samples = FolderSamples(fields, files, labels, reader)
        bytes_needed = len(files) * shape[0] * shape[1] * shape[2]
        return samples.in_memory() if bytes_needed <= self.memory_mb * 2**20 else samples

    def _files(self, split: Split) -> tuple[Path, list[Path], tuple[str, ...]]:
        """The folder that holds this split's classes, this split's files in it, and the classes of both splits."""
        from mtdiff_image.files import list_pictures

        folders = self._folders()
        if split not in folders:
            raise MissingSplitError(f"there is a folder train, but no folder {split} beside it", self.path, LAYOUT)
        listed = {folder: list_pictures(folder) for folder in folders.values()}
        # From all files, so that a class which one split lacks does not renumber the others.
        classes = {p.relative_to(folder).parts[0] for folder in listed for p in listed[folder] if p.parent != folder}
        files = listed[folders[split]]
        if folders.get("test") == folders["train"]:
            files = self._share(files, split)
        if not files:
            raise MissingSplitError(f"no pictures for the {split} split", str(folders[split]), LAYOUT)
        return folders[split], files, tuple(sorted(classes))

    def _folders(self) -> dict[Split, Path]:
        """The folder of each split: train and test, if there is a folder train; the same one otherwise."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise UserError("no such folder", str(folder), LAYOUT)
        if not (folder / "train").is_dir():
            return {"train": folder, "test": folder}
        splits: tuple[Split, ...] = ("train", "test")
        return {split: folder / split for split in splits if (folder / split).is_dir()}

    def _share(self, files: list[Path], split: Split) -> list[Path]:
        """Hold out the same files whenever the folder is opened, evenly over the sorted list and so over classes."""
        held_out = [int((i + 1) * self.test_share) > int(i * self.test_share) for i in range(len(files))]
        return [path for path, out in zip(files, held_out, strict=True) if out == (split == "test")]


class PictureReader:
    """Reads picture files; counts the unreadable ones, and stops when they are too many.

    Args:
        shape: ``(C, H, W)`` of every picture.
        max_bad: Share of unreadable files that is accepted.
        total: Number of files.
        where: The folder, for messages.
    """

    def __init__(self, shape: Shape, max_bad: float, total: int, where: str) -> None:
        self.shape, self.max_bad, self.total, self.where = shape, max_bad, total, where
        self.bad: dict[Path, str] = {}

    def read(self, path: Path) -> Tensor | None:
        """A picture, uint8 ``(C, H, W)``, or None if it cannot be read."""
        from mtdiff_image.files import read_picture

        try:
            return read_picture(path, self.shape)
        except UserError as error:
            self.bad.setdefault(path, str(error).split("\n")[0])
            return None

    def check(self) -> None:
        """Raise ``UserError`` if too large a share could not be read."""
        if len(self.bad) > self.max_bad * self.total:
            raise UserError(
                f"{len(self.bad)} of {self.total} pictures cannot be read, more than max_bad = {self.max_bad:g}",
                self.where,
                f"{self.listing()}\n  mend or remove them, or raise data.max_bad",
            )

    def listing(self) -> str:
        """The unreadable files with their reasons, the first ten."""
        shown = list(self.bad.values())[:10]
        return "\n  ".join([*shown, *([f"... and {len(self.bad) - 10} more"] if len(self.bad) > 10 else [])])


class FolderSamples:
    """Picture files, each read when it is asked for.

    Args:
        fields: What the fields hold.
        files: The files.
        labels: Their classes, if there are any.
        reader: Reads them.
    """

    def __init__(
        self,
        fields: dict[str, FieldSpec],
        files: Sequence[Path],
        labels: Sequence[int] | None,
        reader: PictureReader,
    ) -> None:
        self.fields, self._files, self._labels, self._reader = fields, files, labels, reader

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Sample ``index``; in place of an unreadable file the next readable one."""
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            known_as_bad = len(self._reader.bad)
            picture = self._reader.read(self._files[place])
            if picture is not None:
                return self._sample(place, picture)
            if len(self._reader.bad) > known_as_bad:
                log.warning("left out: %s", self._reader.bad[self._files[place]])
            self._reader.check()
        raise UserError("no picture can be read", self._reader.where)

    def _sample(self, place: int, picture: Tensor) -> dict[str, Tensor]:
        import torch

        sample = {"image": picture}
        if self._labels is not None:
            sample["label"] = torch.tensor(self._labels[place])
        return sample

    def in_memory(self) -> Samples:
        """All readable pictures, read at once."""
        import torch

        from mtdiff_core.data.samples import TensorSamples

        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self._reader.read, self._files))
        self._reader.check()
        good = [i for i, picture in enumerate(pictures) if picture is not None]
        if not good:
            raise UserError("no picture can be read", self._reader.where, self._reader.listing())
        if self._reader.bad:
            log.warning("%d pictures left out:\n  %s", len(self._reader.bad), self._reader.listing())
        tensors = {"image": torch.stack([p for p in pictures if p is not None])}
        if self._labels is not None:
            tensors["label"] = torch.tensor(self._labels)[good]
        return TensorSamples(self.fields, tensors)
