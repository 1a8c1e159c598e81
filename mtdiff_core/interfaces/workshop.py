"""Workshop: what a modality has at hand while it learns from the training data, before the model is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mtdiff_core.interfaces.dataset import Samples

# How long work is shown: a title and how much there is to do, giving what is called with how much more was done.
Progress = Callable[[str, int], Callable[[int], None]]


def silent(title: str, total: int) -> Callable[[int], None]:
    """Progress that nobody looks at."""
    return lambda done: None


def cache_folder() -> Path:
    """Where results that can be computed again are kept: ``$MTDIFF_CACHE``, or ``mtdiff`` in the user's cache folder.

    The latter is ``$XDG_CACHE_HOME``, or ``~/.cache`` where that is not set. The folder need not exist yet.
    """
    if own := os.environ.get("MTDIFF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mtdiff"


class Workshop:
    """What :meth:`Modality.fit` and :meth:`Modality.derive` work with.

    Args:
        device: Where networks run.
        seed: The recipe's seed; streams are derived from it (``mtdiff_core.randomness``).
        progress: Shows work that takes long.
        cache: Folder for what can be computed again, shared by all runs.
    """

    def __init__(self, device: torch.device, seed: int, progress: Progress = silent, cache: Path | None = None) -> None:
        self.device, self.seed, self.progress = device, seed, progress
        self.cache = cache or cache_folder()
        # The samples are kept beside their hash, so that no other object can get their id.
        self._hashes: dict[tuple[int, str], tuple[Samples, str]] = {}

    def content_hash(self, samples: Samples, field: str) -> str:
        """SHA-256 of what one field holds in one split, sample by sample; see :func:`content_hash`. Read once."""
        key = (id(samples), field)
        if key not in self._hashes:
            self._hashes[key] = (samples, content_hash(samples, field, self.progress))
        return self._hashes[key][1]


def content_hash(samples: Samples, field: str, progress: Progress = silent) -> str:
    """SHA-256, in hexadecimal, of a field's kind and of its value in every sample, in their order.

    A sample that lacks the field counts as such, so equal hashes mean equal data row by row.
    """
    digest = hashlib.sha256(str(samples.fields[field]).encode())
    advance = progress(f"reading {field}", len(samples))
    for index in range(len(samples)):
        value = samples[index].get(field)
        digest.update(b"absent" if value is None else b"present" + value.contiguous().numpy().tobytes())
        advance(1)
    return digest.hexdigest()
