"""The nearest right spelling."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    """A hint that names the nearest spelling, if there is one near, and everything that is allowed."""
    near = get_close_matches(word, allowed, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}allowed: {', '.join(allowed) if allowed else 'nothing'}"
