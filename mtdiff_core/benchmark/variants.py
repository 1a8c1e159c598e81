"""Which of the ways to make a training step faster pay on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from mtdiff_core.benchmark.subjects import TrainingStep
from mtdiff_core.benchmark.timing import Measured, Subject, interleaved, to_json

if TYPE_CHECKING:
    from mtdiff_core.benchmark.subjects import Opened
    from mtdiff_core.data.batches import Batch


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

# A variant so many times slower than the reference, as bf16 is where it is emulated, is timed by one step alone: more
# would take most of the time and change nothing.
HOPELESS = 4.0


def variants_json(
    opened: Opened,
    batch: Batch,
    variants: Sequence[Variant],
    rounds: int,
    synchronise: Callable[[], None],
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Each variant's step beside the first one's.

    One that does not work here is a row that says why, and one that is ``HOPELESS`` is timed once; the others are
    measured all the same.

    Args:
        opened: The recipe.
        batch: On the host, as a loader gives it.
        variants: The first is what the others are measured by.
        rounds: Of timing.
        synchronise: Waits for the device.
        advance: Called with 1 after each variant's first steps and after each round.
    """
    started = []
    for variant in variants:
        started.append(_started(opened, batch, variant, synchronise))
        advance(1)
    reference = started[0]
    worth_it = [one for one in started if one.step and not one.is_hopeless(reference)]
    subjects = [Subject(name=one.variant.name, run=one.step) for one in worth_it if one.step]
    seconds = interleaved(subjects, rounds, synchronise, advance) if subjects else {}
    return [one.row(seconds, reference) for one in started]


@attrs.frozen(kw_only=True)
class _Started:
    """A variant after its first two steps, or what is wrong with it.

    Attributes:
        variant: Which.
        step: Does another step; None if it does not work here.
        first: Seconds of the first step, in which a compiler may have been at work.
        second: Seconds of the second.
        error: "", or what is wrong.
    """

    variant: Variant
    step: TrainingStep | None = None
    first: float | None = None
    second: float = math.nan
    error: str = ""

    def is_hopeless(self, reference: _Started) -> bool:
        """Whether its step is slower than the reference's beyond all noise."""
        return self.second > HOPELESS * reference.second

    def row(self, seconds: Mapping[str, Measured], reference: _Started) -> dict[str, Any]:
        """As JSON data; a variant that was timed once has one second and one speedup."""
        mine, its = seconds.get(self.variant.name), seconds.get(reference.variant.name)
        if self.step and mine is None:
            mine, its = Measured(each=[self.second]), Measured(each=[reference.second])
        speedup = its.over(mine) if mine and its else None
        return {
            "name": self.variant.name,
            **self.variant.options,
            "channels_last": self.variant.channels_last,
            "first_step_seconds": self.first,
            "error": self.error,
            "seconds": mine and to_json(mine),
            "speedup": speedup and to_json(speedup),
        }


def _started(opened: Opened, batch: Batch, variant: Variant, synchronise: Callable[[], None]) -> _Started:
    try:
        trainer = opened.trainer(**variant.options)
        if not variant.channels_last:
            for module in (trainer.model, trainer.ema.model):
                module.to(memory_format=torch.contiguous_format)
        step = TrainingStep(trainer, batch)
        first, second = (_seconds(step, synchronise) for _ in range(2))
    except Exception as error:  # compilers and missing kernels raise whatever they like
        return _Started(variant=variant, error=f"{type(error).__name__}: {error}".strip().split("\n")[0])
    return _Started(variant=variant, step=step, first=first, second=second)


def _seconds(step: TrainingStep, synchronise: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - start
