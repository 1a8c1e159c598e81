"""Samples that are read from files, at once or one by one; what cannot be read is counted and left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from mtdiff_core import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core import FieldSpec, Samples

log = logging.getLogger(__name__)

Sample = dict[str, "Tensor"]


def open_files(
    fields: Mapping[str, FieldSpec],
    read: Callable[[int], Sample],
    total: int,
    *,
    where: str,
    noun: str,
    max_bad: float,
    memory_mb: int,
) -> Samples:
    """Samples of files, kept in memory if they fit there.

    Args:
        fields: What the fields hold.
        read: Reads sample ``index``; raises ``UserError`` if it cannot be read. Called from several threads.
        total: Number of samples.
        where: The folder or file that names them, for messages.
        noun: What the samples are, for messages: ``"pictures"``.
        max_bad: Share of unreadable samples that is accepted.
        memory_mb: Memory that the samples may take.

    Raises:
        UserError: Too many, or all, could not be read; where they are not kept in memory, as soon as that is known.
    """
    samples = FileSamples(fields, read, total, where=where, noun=noun, max_bad=max_bad)
    sizes = (math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize for spec in fields.values())
    return samples.in_memory() if total * sum(sizes) <= memory_mb * 2**20 else samples


class KeptSamples:
    """Samples that lie in memory, one by one; each may lack other fields.

    Args:
        fields: What the fields hold.
        samples: The samples.
    """

    def __init__(self, fields: Mapping[str, FieldSpec], samples: Sequence[Sample]) -> None:
        self.fields, self._samples = dict(fields), samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return dict(self._samples[index])


class FileSamples:
    """Samples that are read when they are asked for; see :func:`open_files`."""

    def __init__(
        self,
        fields: Mapping[str, FieldSpec],
        read: Callable[[int], Sample],
        total: int,
        *,
        where: str,
        noun: str,
        max_bad: float,
    ) -> None:
        self.fields, self._read, self._total = dict(fields), read, total
        self._where, self._noun, self._max_bad = where, noun, max_bad
        self._bad: dict[int, str] = {}

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; in place of an unreadable one the next readable one."""
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            known_as_bad = place in self._bad
            sample = self._readable(place)
            if sample is not None:
                return sample
            if not known_as_bad:
                log.warning("left out: %s", self._bad[place])
            self._check()
        raise UserError(f"none of the {self._noun} can be read", self._where, self._listing())

    def in_memory(self) -> Samples:
        """All readable samples, read at once."""
        with ThreadPoolExecutor() as pool:
            samples = [sample for sample in pool.map(self._readable, range(len(self))) if sample is not None]
        self._check()
        if not samples:
            raise UserError(f"none of the {self._noun} can be read", self._where, self._listing())
        if self._bad:
            log.warning("%d %s left out:\n  %s", len(self._bad), self._noun, self._listing())
        return KeptSamples(self.fields, samples)

    def _readable(self, index: int) -> Sample | None:
        """Sample ``index``, or None after noting why it cannot be read."""
        try:
            return self._read(index)
        except UserError as error:
            self._bad.setdefault(index, str(error).split("\n")[0])
            return None

    def _check(self) -> None:
        """Raise ``UserError`` if too large a share could not be read."""
        if len(self._bad) > self._max_bad * len(self):
            raise UserError(
                f"{len(self._bad)} of {len(self)} {self._noun} cannot be read, more than max_bad = {self._max_bad:g}",
                self._where,
                f"{self._listing()}\n  mend or remove them, or raise data.max_bad",
            )

    def _listing(self) -> str:
        """The unreadable samples with their reasons, the first ten."""
        reasons = [self._bad[index] for index in sorted(self._bad)]
        return "\n  ".join([*reasons[:10], *([f"... and {len(reasons) - 10} more"] if len(reasons) > 10 else [])])
