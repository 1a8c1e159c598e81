"""Folders that are numbered in the order in which they were begun."""

from __future__ import annotations

from itertools import count
from pathlib import Path


def numbers_in(folder: Path) -> list[int]:
    """The numbers among the names in a folder, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def make_next_number(folder: Path) -> Path:
    """Make the next of the folders 1, 2, ... in a folder, one that no other process has made meanwhile.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(max(numbers_in(folder), default=0) + 1):
        try:
            (folder / str(number)).mkdir()
        except FileExistsError:
            continue
        break
    return folder / str(number)
