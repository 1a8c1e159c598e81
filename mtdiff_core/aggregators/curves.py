"""Named curves ``c_t`` of a modality's coefficient, as functions of the levels ``a_t, s_t``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mtdiff_core.interfaces.component import component, option

if TYPE_CHECKING:
    from torch import Tensor

# With these factors the largest value is 1 where a^2 + s^2 = 1: of a s^2 at s^2 = 2/3, of a s^4 at s^2 = 4/5.
FADING_PEAK = 1.5 * 3**0.5
EARLY_PEAK = 25 / 16 * 5**0.5

CURVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fading": lambda alpha, sigma: FADING_PEAK * alpha * sigma**2,
    "early": lambda alpha, sigma: EARLY_PEAK * alpha * sigma**4,
    "proportional": lambda alpha, sigma: alpha,
    "none": lambda alpha, sigma: alpha * 0,
}


@component
class CurveOptions:
    """Keys that say how strongly ``z_t`` carries a modality, and when."""

    curve: str = option(
        "fading",
        choices=tuple(CURVES),
        help="c_t: fading = 2.6 a s^2 (a hint, gone before the data is clean); early = 3.5 a s^4 (gone sooner, so that "
        "more is learnt of reading it off the rest); proportional = a; none = 0",
    )
    strength: float = option(1.0, help="factor on c_t", minimum=0, maximum=100)

    def coefficient(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``strength * curve(a_t, s_t)``, of the levels' shape."""
        return self.strength * CURVES[self.curve](alpha, sigma)

    def carries(self) -> bool:
        """Whether the coefficient is ever other than 0."""
        return self.curve != "none" and self.strength > 0
