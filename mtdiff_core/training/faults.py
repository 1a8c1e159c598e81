"""What went wrong in a step, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.diffusion.model import MultiModalDiffusion


def what_is_not_finite(terms: Mapping[str, Tensor], model: MultiModalDiffusion) -> str:
    """The first modality and term of a step's losses that went wrong, or else the first gradient.

    Args:
        terms: Losses by modality, scalars.
        model: With the step's gradients.
    """
    for name, term in terms.items():
        if not bool(term.isfinite()):
            kind = "squared error of v" if name == model.anchor else "negative log-likelihood"
            return f"modality {name!r}: its {kind} is {term.item()}"
    bad = (n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
    return f"the gradient of {next(bad, 'some parameter')} is not finite"
