"""Directions: what is known, and what is generated from it."""

from __future__ import annotations

from collections.abc import Collection

import attrs

from mtdiff_core.errors import UserError
from mtdiff_core.suggest import did_you_mean

ARROW = "->"


@attrs.frozen
class Direction:
    """A direction to sample in.

    Attributes:
        known: Names of the modalities that are given, in the recipe's order; empty for joint samples.
        generated: Names of all others.
    """

    known: tuple[str, ...]
    generated: tuple[str, ...]

    def __str__(self) -> str:
        right = " + ".join(self.generated)
        return f"{' + '.join(self.known)} {ARROW} {right}" if self.known else f"joint {ARROW} {right}"


def direction(known: Collection[str], modalities: Collection[str]) -> Direction:
    """The direction in which ``known`` is given and everything else is generated.

    Raises:
        UserError: ``known`` names something that is no modality, or leaves nothing to generate.
    """
    for name in known:
        if name not in modalities:
            raise UserError(f"there is no modality {name!r}", hint=did_you_mean(name, list(modalities)))
    generated = tuple(name for name in modalities if name not in known)
    if not generated:
        raise UserError("everything is given, so there is nothing to generate", hint="give fewer modalities")
    return Direction(tuple(name for name in modalities if name in known), generated)


def parse_direction(text: str, modalities: Collection[str]) -> Direction:
    """A direction as recipes write it: ``"joint"``, ``"label -> image"``, ``"image + label -> mask"``.

    Raises:
        UserError: The text is no direction between these modalities.
    """
    left, arrow, right = (part.strip() for part in text.partition(ARROW))
    known = [] if left == "joint" else [name.strip() for name in left.split("+")]
    result = direction(known, modalities)
    if arrow and {name.strip() for name in right.split("+")} != set(result.generated):
        raise UserError(f"{text!r} leaves a modality out", hint=f"all others are generated: {str(result)!r}")
    return result
