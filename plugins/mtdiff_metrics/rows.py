"""What scorers keep of samples: rows that come batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """Rows of one shape and dtype, in their order, in one block of memory that at least doubles when it is full.

    In a list, the many small tensors would lie between the large ones that sampling takes and frees, and keep their
    places from being used again: memory would grow by much more than is kept.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def begun(self) -> bool:
        """Whether anything was added, be it no rows."""
        return self._block is not None

    def add(self, rows: Tensor) -> None:
        """Keep a copy of rows ``(B, ...)``."""
        needed = self._count + len(rows)
        if self._block is None or needed > len(self._block):
            block = rows.new_empty(max(needed, 2 * self._count), *rows.shape[1:])
            if self._block is not None:
                block[: self._count] = self._block[: self._count]
            self._block = block
        self._block[self._count : needed] = rows
        self._count = needed

    def all(self) -> Tensor:
        """All rows, ``(N, ...)``; before anything was added, ``(0,)``."""
        return torch.empty(0) if self._block is None else self._block[: self._count]
