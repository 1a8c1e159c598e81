"""What lifecycle hooks are told about a run."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class RunInfo:
    """A training run, as plugins see it.

    Attributes:
        name: The recipe's name.
        directory: The run directory.
        total_steps: Steps that the run will take.
        modalities: Names of the modalities, in the recipe's order.
    """

    name: str
    directory: Path
    total_steps: int
    modalities: tuple[str, ...]
