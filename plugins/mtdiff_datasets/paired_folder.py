"""Pairs of pictures in folders, as pix2pix and CycleGAN lay them out."""

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

LAYOUT = """expected files with A and B side by side, as for pix2pix:
    PATH/train/001.png ...  and PATH/test/101.png ... (or PATH/val)
  or a folder for each side with files of equal names, as for CycleGAN:
    PATH/trainA/001.png  PATH/trainB/001.png ...  and PATH/testA, PATH/testB (or PATH/valA, PATH/valB)"""

# The folder of the test split may have either name; where there are both, the first is read.
FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}

Pair = tuple[Path, ...]


@component
class PairedFolder(DatasetSource):
    """Your own pairs of pictures, side by side in one file or in two folders: two fields, named by names."""

    path: str = option(help="the folder")
    names: tuple[str, ...] = option(("image", "paired_image"), help="names of the two fields")
    order: str = option(
        "AB", help="AB if the first field is the left half or folder A, BA if it is the other", choices=("AB", "BA")
    )
    size: int = option(
        64, help="height and width in pixels; both pictures are resized and cropped to it", minimum=4, maximum=4096
    )
    colour: bool = option(True, help="true for RGB, false for grey")
    max_bad: float = option(
        0.01, help="share of pairs that may be unreadable before the run stops", minimum=0, maximum=1
    )
    memory_mb: int = option(2048, help="pictures are kept in memory if they fit in so many MB", minimum=0)

    def __attrs_post_init__(self) -> None:
        if len(set(self.names)) != 2 or len(self.names) != 2 or "" in self.names:
            raise ValueError(f"names must be two different names, not {list(self.names)}")

    def open(self, split: Split) -> Samples:
        """Open one split; pairs that cannot be read are left out, counted and listed once."""
        from mtdiff_image.reading import open_files

        pairs = self._pairs(split)
        shape = (3 if self.colour else 1, self.size, self.size)
        spec = FieldSpec(shape=shape, dtype="uint8")
        names = self.names if self.order == "AB" else self.names[::-1]  # of A and of B
        return open_files(
            dict.fromkeys(self.names, spec),
            partial(_read_pair, pairs, names, shape),
            len(pairs),
            where=self.path,
            noun="pairs",
            max_bad=self.max_bad,
            memory_mb=self.memory_mb,
        )

    def _pairs(self, split: Split) -> list[Pair]:
        """The files of each pair: one with both sides, or one for A and one for B."""
        from mtdiff_image.files import list_pictures

        folder = user_path(self.path)
        if not folder.is_dir():
            raise UserError("no such folder", str(folder), LAYOUT)
        two_folders = (folder / "trainA").is_dir() or (folder / "trainB").is_dir()
        if two_folders == (folder / "train").is_dir():
            what = "both a folder train and a folder trainA or trainB" if two_folders else "no folder train or trainA"
            raise UserError(f"holds {what}", str(folder), LAYOUT)
        sides = ("A", "B") if two_folders else ("",)
        found = [name for name in FOLDERS[split] if any((folder / f"{name}{side}").is_dir() for side in sides)]
        if not found:
            wanted = " or ".join(name + sides[0] for name in FOLDERS[split])
            raise MissingSplitError(f"there is no folder {wanted} for the {split} split", str(folder), LAYOUT)
        folders = [folder / f"{found[0]}{side}" for side in sides]
        pairs: list[Pair] = [(path,) for path in list_pictures(folders[0])] if len(folders) == 1 else _matched(*folders)
        if not pairs:
            raise MissingSplitError(f"no pictures for the {split} split", str(folders[0]), LAYOUT)
        return pairs


def _matched(first: Path, second: Path) -> list[Pair]:
    """Files of two folders with equal names, sorted; suffixes may differ."""
    by_name = [_by_name(folder) for folder in (first, second)]
    alone = sorted(by_name[0].keys() ^ by_name[1].keys())
    if alone:
        side, other = (first, second) if alone[0] in by_name[0] else (second, first)
        more = f", and {len(alone) - 1} more like it" if len(alone) > 1 else ""
        raise UserError(
            f"{alone[0]!r} is in {side.name} and not in {other.name}{more}",
            str(first.parent),
            "give each file its pair",
        )
    return [(by_name[0][name], by_name[1][name]) for name in sorted(by_name[0])]


def _by_name(folder: Path) -> dict[str, Path]:
    """Picture files by their path below the folder without its suffix."""
    from mtdiff_image.files import list_pictures

    if not folder.is_dir():
        raise UserError("no such folder", str(folder), LAYOUT)
    files: dict[str, Path] = {}
    for path in list_pictures(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(
                f"{files[name].name} and {path.name} have one name, so their pair is in doubt", str(folder), LAYOUT
            )
        files[name] = path
    return files


def _read_pair(pairs: Sequence[Pair], names: Sequence[str], shape: Shape, index: int) -> dict[str, Tensor]:
    """Both pictures, resized and cropped alike; ``names`` are those of A and B."""
    from mtdiff_image.files import decode_picture, fit

    files, (channels, height, width) = pairs[index], shape
    decoded = [decode_picture(path, channels) for path in files]
    sides = decoded if len(decoded) == 2 else _halves(decoded[0], files[0])
    if sides[0].shape != sides[1].shape:
        sizes = " and ".join(f"{side.shape[2]}x{side.shape[1]}" for side in sides)
        raise UserError(f"differs in size from its pair: {sizes}", str(files[0]))
    return {name: fit(side, height, width) for name, side in zip(names, sides, strict=True)}


def _halves(picture: Tensor, path: Path) -> list[Tensor]:
    """The left and the right half of a picture ``(C, h, 2 w)``, ``(C, h, w)`` each."""
    if picture.shape[2] % 2:
        raise UserError(f"has an odd width of {picture.shape[2]}, so it is not two pictures side by side", str(path))
    return list(picture.chunk(2, dim=2))
