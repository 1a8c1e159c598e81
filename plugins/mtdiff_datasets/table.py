"""Tables: a manifest that names, for every sample, files and values; what a sample lacks is missing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mtdiff_core import DatasetSource, FieldSpec, MissingSplitError, UserError, component, option
from mtdiff_core.files import user_path

if TYPE_CHECKING:
    from mtdiff_core import Samples, Split
    from mtdiff_datasets.manifest import Row


@component
class Table(DatasetSource):
    """Your own samples, listed in a CSV or JSON Lines file: a field for every column that is named here.

    An empty cell (in JSON also null, or no key) means that the sample lacks this field. Files are named relative to
    the manifest.
    """

    path: str = option(help="the manifest, .csv or .jsonl")
    test: str = option("", help="a second manifest, for the test split; if empty, test_share is held out of the first")
    test_share: float = option(
        0.1, help="share of rows held out as the test split, chosen once at random", minimum=0, maximum=0.9
    )
    pictures: tuple[str, ...] = option((), help="columns of picture files (PNG, JPEG, WebP)")
    maps: tuple[str, ...] = option((), help="columns of class maps: PNG files, grey or indexed, of class indices")
    map_classes: tuple[str, ...] = option((), help="what the indices 0, 1, 2, ... of maps are called")
    labels: tuple[str, ...] = option((), help="columns of class names")
    vectors: tuple[str, ...] = option((), help='columns of lists of numbers, as in JSON: "[0.5, 1]"')
    size: int = option(
        64, help="height and width in pixels; pictures and maps are resized and cropped to it", minimum=4, maximum=4096
    )
    colour: bool = option(True, help="true for RGB, false for grey")
    max_bad: float = option(
        0.01, help="share of rows whose files may be unreadable before the run stops", minimum=0, maximum=1
    )
    memory_mb: int = option(2048, help="samples are kept in memory if they fit in so many MB", minimum=0)

    def __attrs_post_init__(self) -> None:
        twice = sorted({name for name in self.columns() if self.columns().count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]!r} is named twice among pictures, maps, labels and vectors")
        if not self.columns():
            raise ValueError("name at least one column in pictures, maps, labels or vectors")
        if bool(self.maps) != bool(self.map_classes):
            raise ValueError("maps and map_classes go together: the columns, and what their indices are called")

    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.pictures, *self.maps, *self.labels, *self.vectors)

    def open(self, split: Split) -> Samples:
        """Open one split; rows whose files cannot be read are left out, counted and listed once."""
        from mtdiff_datasets.rows import classes_of, length_of, read_row
        from mtdiff_image.reading import open_files

        rows, both = self._rows(split)
        picture = FieldSpec(shape=(3 if self.colour else 1, self.size, self.size), dtype="uint8")
        class_map = FieldSpec(shape=(self.size, self.size), dtype="uint8", classes=self.map_classes)
        fields = dict.fromkeys(self.pictures, picture) | dict.fromkeys(self.maps, class_map)
        # From all rows, so that both splits number their classes alike.
        for name in self.labels:
            fields[name] = FieldSpec(shape=(), dtype="int64", classes=classes_of(both, name))
        for name in self.vectors:
            fields[name] = FieldSpec(shape=(length_of(both, name),), dtype="float32")
        return open_files(
            fields,
            partial(read_row, rows, fields, frozenset(self.pictures)),
            len(rows),
            where=self.path,
            noun="rows",
            max_bad=self.max_bad,
            memory_mb=self.memory_mb,
        )

    def _rows(self, split: Split) -> tuple[list[Row], list[Row]]:
        """The rows of a split, and those of both splits."""
        from mtdiff_datasets.manifest import read_manifest
        from mtdiff_datasets.rows import held_out

        named = [user_path(path) for path in (self.path, self.test) if path]
        found = [read_manifest(path, self.columns()) for path in named]
        both = [row for rows in found for row in rows]
        splits = found if self.test else held_out(both, self.test_share)
        rows = splits[split == "test"]
        if not rows:
            hint = "a row needs a value in one of the columns" if self.test else "raise data.test_share, or add rows"
            raise MissingSplitError(f"has no rows for the {split} split", str(named[-1]), hint)
        self._check_files(both)
        return rows, both

    def _check_files(self, rows: list[Row]) -> None:
        """Raise ``UserError`` if a file that is named is not there."""
        from mtdiff_datasets.rows import file_of

        for row in rows:
            for name in (*self.pictures, *self.maps):
                if name in row.cells and not file_of(row, name).is_file():
                    raise UserError(
                        f"column {name!r} names a file that is not there: {file_of(row, name)}",
                        row.where,
                        "files are named relative to the manifest's folder",
                    )
