"""What came of a training step: known to the device at once, to the host a step later, so that neither waits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtdiff_core.training.metrics_log import Meter
from mtdiff_core.training.parallel import whole_one
from mtdiff_core.transfer import Fetched

log = logging.getLogger(__name__)


class StepOutcome:
    """Losses and gradients of one step.

    Attributes:
        norm: Of the whole gradient, a scalar on the device.
        is_good: Whether it and all losses are finite, a bool scalar on the device.

    Args:
        step: Which one.
        terms: Its losses by modality, scalars on the device.
        gradients: By parameter. Where processes have parts of them, all have to ask.
    """

    def __init__(self, step: int, terms: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        self.step, self._terms, self._parameters = step, list(terms), list(gradients)
        norms = whole_one(torch.stack(torch._foreach_norm(list(gradients.values()))))  # (P,)
        self.norm = torch.linalg.vector_norm(norms)
        losses = torch.stack(list(terms.values()))  # (N,)
        self.is_good = torch.cat([self.norm[None], losses]).isfinite().all()
        self._fetched = Fetched(torch.cat([self.norm[None], losses, norms]))

    def scalars(self) -> dict[str, float]:
        """What is worth logging: the norm and all losses."""
        found = self._fetched.read()[: 1 + len(self._terms)].tolist()
        return dict(zip(["gradient_norm", *(f"loss/{name}" for name in self._terms)], found, strict=True))

    def fault(self, anchor: str) -> str | None:
        """What is not finite, in words: the first loss, or else the first gradient; None if nothing is.

        Args:
            anchor: Name of the modality whose loss is the squared error of v.
        """
        values = self._fetched.read()
        is_finite = values.isfinite().tolist()
        for name, value, good in zip(self._terms, values[1:].tolist(), is_finite[1:], strict=False):
            if not good:
                kind = "squared error of v" if name == anchor else "negative log-likelihood"
                return f"modality {name!r}: its {kind} is {value}"
        if is_finite[0]:
            return None
        each = zip(self._parameters, is_finite[1 + len(self._terms) :], strict=True)
        return f"the gradient of {next((name for name, good in each if not good), 'all together')} is not finite"


class StepNotes:
    """What the host has heard of the steps so far: of each, when the next one is under way.

    Attributes:
        meter: What is logged next.
        step: The last one that it has heard of.
        skipped: Steps that were not finite and changed nothing.
        skipped_in_a_row: How many of them are the last ones.
        fault: What was wrong with the last of them.

    Args:
        batch_size: Samples in a step.
        anchor: Name of the anchor.
    """

    def __init__(self, batch_size: int, anchor: str) -> None:
        self.meter, self.anchor = Meter(batch_size), anchor
        self.step, self.skipped, self.skipped_in_a_row, self.fault = 0, 0, 0, ""
        self._pending: StepOutcome | None = None

    def add(self, outcome: StepOutcome) -> int | None:
        """There is one step more to hear of; hear of the one before.

        Returns:
            Which step that was; None if it was heard of already.
        """
        known = self.catch_up()
        self._pending = outcome
        return known

    def catch_up(self) -> int | None:
        """Hear of the last step, and wait for it; returns as :meth:`add` does."""
        known, self._pending = self._pending, None
        if known is None:
            return None
        self.step, fault = known.step, known.fault(self.anchor)
        if fault is None:
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
            self.fault = fault
            log.warning("step %d left out: %s", known.step, fault)
        self.meter.add(known.scalars())
        return known.step

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON data, once it has caught up."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "fault": self.fault,
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; a step that is under way counts no more."""
        self.step, self.fault, self._pending = state["step"], state["fault"], None
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        self.meter.load_state_dict(state["meter"])
