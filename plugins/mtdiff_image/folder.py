"""The user's own pictures: a folder, with a sub-folder for each class if there are classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mtdiff_core import DatasetSource, FieldSpec, MissingSplitError, UserError, component, option
from mtdiff_core.files import user_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mtdiff_core import Samples, Shape, Split

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
        from mtdiff_image.reading import open_files

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
        return open_files(
            fields,
            partial(_read_sample, files, labels, shape),
            len(files),
            where=str(folder),
            noun="pictures",
            max_bad=self.max_bad,
            memory_mb=self.memory_mb,
        )

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
        from mtdiff_image.files import list_pictures

        folder = user_path(self.path)
        if not folder.is_dir():
            raise UserError("no such folder", str(folder), LAYOUT)
        if not (folder / "train").is_dir():
            return {"train": folder, "test": folder}
        splits: tuple[Split, ...] = ("train", "test")
        for other in sorted(folder.iterdir()):
            if other.is_dir() and other.name not in splits and list_pictures(other):
                what = f"the folder train holds the training split, and {other.name} lies beside it, with pictures too"
                hint = "no class can be called train, and held-out pictures lie below test"
                raise UserError(what, str(folder), f"{hint}; {LAYOUT}")
        return {split: folder / split for split in splits if (folder / split).is_dir()}

    def _share(self, files: list[Path], split: Split) -> list[Path]:
        """Hold out the same files whenever the folder is opened, evenly over the sorted list and so over classes."""
        held_out = [int((i + 1) * self.test_share) > int(i * self.test_share) for i in range(len(files))]
        return [path for path, out in zip(files, held_out, strict=True) if out == (split == "test")]


def _read_sample(files: Sequence[Path], labels: Sequence[int] | None, shape: Shape, index: int) -> dict[str, Tensor]:
    import torch

    from mtdiff_image.files import read_picture

    sample = {"image": read_picture(files[index], shape)}
    if labels is not None:
        sample["label"] = torch.tensor(labels[index])
    return sample
