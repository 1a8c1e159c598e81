"""Which of the ways to make a training step faster pay on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from mtdiff_core.benchmark.subjects import TrainingStep
from mtdiff_core.benchmark.timing import Measured, Subject, interleaved, to_json

if TYPE_CHECKING:
    from mtdiff_core.benchmark.subjects import Opened
    from mtdiff_core.data.loading import Batch


@attrs.frozen(kw_only=True)
class Variant:
    """A way to compute a training step.

    Attributes:
        name: As people call it.
        options: Of ``[train]``.
        channels_last: Whether pixels' channels lie side by side in memory, as trainers have it, or each channel's
            pixels.
    """

    name: str
    options: Mapping[str, Any]
    channels_last: bool = True


REFERENCE = Variant(name="fp32", options={"precision": "fp32"})
VARIANTS = (
    REFERENCE,
    Variant(name="fp32, not channels_last", options={"precision": "fp32"}, channels_last=False),
    Variant(name="bf16", options={"precision": "bf16"}),
    Variant(name="fp32, compile", options={"precision": "fp32", "compile": True}),
    Variant(name="bf16, compile", options={"precision": "bf16", "compile": True}),
)


def variants_json(
    opened: Opened,
    batch: Batch,
    variants: Sequence[Variant],
    rounds: int,
    synchronise: Callable[[], None],
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Each variant's step beside the first one's.

    One that does not work here is a row that says why; the others are measured all the same.

    Args:
        opened: The recipe.
        batch: On the host, as a loader gives it.
        variants: The first is what the others are measured by.
        rounds: Of timing.
        synchronise: Waits for the device.
        advance: Called with 1 after each variant's first step and after each round.
    """
    subjects, rows = [], []
    for variant in variants:
        row: dict[str, Any] = {"name": variant.name, **variant.options, "channels_last": variant.channels_last}
        step, row["first_step_seconds"], row["error"] = _started(opened, batch, variant, synchronise)
        if step is not None:
            subjects.append(Subject(name=variant.name, run=step))
        rows.append(row)
        advance(1)
    seconds = interleaved(subjects, rounds, synchronise, advance) if subjects else {}
    reference = seconds.get(variants[0].name)
    return [{**row, **_times(seconds.get(row["name"]), reference)} for row in rows]


def _started(
    opened: Opened, batch: Batch, variant: Variant, synchronise: Callable[[], None]
) -> tuple[TrainingStep | None, float | None, str]:
    """A variant after its first step, how long that took, and "" or what is wrong with it."""
    try:
        trainer = opened.trainer(**variant.options)
        if not variant.channels_last:
            for module in (trainer.model, trainer.ema.model):
                module.to(memory_format=torch.contiguous_format)
        step, start = TrainingStep(trainer, batch), time.perf_counter()
        step()
        synchronise()
    except Exception as error:  # compilers and missing kernels raise whatever they like
        return None, None, f"{type(error).__name__}: {error}".strip().split("\n")[0]
    return step, time.perf_counter() - start, ""


def _times(seconds: Measured | None, reference: Measured | None) -> dict[str, Any]:
    speedup = reference.over(seconds) if seconds and reference else None
    return {"seconds": seconds and to_json(seconds), "speedup": speedup and to_json(speedup)}
