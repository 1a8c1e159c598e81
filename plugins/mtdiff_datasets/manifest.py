"""Manifests, CSV or JSON Lines: rows of cells by column. A cell that is empty, null or absent is missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import attrs

from mtdiff_core import UserError, did_you_mean

EXPECTED = "expected CSV with a header line, or JSON Lines (.jsonl) with one object a line"


@attrs.frozen(kw_only=True)
class Row:
    """One line of a manifest.

    Attributes:
        file: The manifest.
        line: Its number, from 1; the last one where a quoted cell spans several.
        cells: What is there, by column.
    """

    file: Path
    line: int
    cells: dict[str, Any]

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.file}, line {self.line}"


def read_manifest(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows that have a value in at least one of the columns.

    Args:
        path: ``.csv``, ``.jsonl`` or ``.ndjson``, in UTF-8.
        columns: The columns that are wanted.

    Raises:
        UserError: The file or a line of it cannot be read, or a column is in no row.
    """
    text = _text(path)
    if path.suffix.lower() == ".csv":
        header = _csv_header(path, text)
        rows = list(_csv_rows(path, text, header))
    else:
        rows = list(_json_rows(path, text))
        header = list(dict.fromkeys(name for row in rows for name in row.cells))
    for column in columns:
        if column not in header:
            raise UserError(f"has no column {column!r}", str(path), did_you_mean(column, header))
    present = [attrs.evolve(row, cells=_present(row, columns)) for row in rows]
    return [row for row in present if row.cells]


def _present(row: Row, columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: row.cells[name] for name in columns if row.cells.get(name) not in (None, "")}


def _text(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".jsonl", ".ndjson"):
        raise UserError("is no manifest", str(path), EXPECTED)
    try:
        # spreadsheets put a byte-order mark before UTF-8: "-sig" drops it
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), EXPECTED) from error
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start})", str(path), EXPECTED) from error


def _csv_header(path: Path, text: str) -> list[str]:
    """The columns' names."""
    try:
        header = next(csv.reader(StringIO(text, newline="")), [])
    except csv.Error as error:
        raise UserError(f"cannot be read as CSV ({error})", f"{path}, line 1", EXPECTED) from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or twice:
        what = f"has two columns called {twice[0]!r}" if twice else "is empty"
        raise UserError(what, str(path), EXPECTED)
    return header


def _csv_rows(path: Path, text: str, header: list[str]) -> Iterator[Row]:
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        next(lines)
        for cells in lines:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"has {len(cells)} cells, and the header has {len(header)}",
                    f"{path}, line {lines.line_num}",
                    'a comma inside a cell needs quotes around the cell: "[1, 2]"',
                )
            if cells:
                yield Row(file=path, line=lines.line_num, cells=dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"cannot be read as CSV ({error})", f"{path}, line {lines.line_num}", EXPECTED) from error


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"cannot be read as JSON ({error})", f"{path}, line {number}", EXPECTED) from error
        if not isinstance(cells, dict):
            raise UserError("is no JSON object", f"{path}, line {number}", EXPECTED)
        yield Row(file=path, line=number, cells=cells)
