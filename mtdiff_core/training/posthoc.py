"""Averages of the weights that are chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

While a run trains it tracks a few power-function averages, and now and then keeps them. A weighted sum of what it kept
is an average of another length: that whose profile comes closest to the one that is wanted.

A profile says how much each moment of training counts, at time t, the number of updates:

    p(τ) = (γ + 1) τ^γ / t^(γ+1),  0 <= τ <= t

Its standard deviation relative to t is sigma_rel, which is what users name: 0.1 spans about the last tenth of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor, nn

from mtdiff_core.errors import UserError
from mtdiff_core.training.checkpoint import remove_checkpoint, snapshots, steps_of_checkpoints
from mtdiff_core.training.ema import move_towards
from mtdiff_core.training.parallel import own_part

if TYPE_CHECKING:
    from mtdiff_core.training.checkpoint import Checkpoint

# Largest distance between profiles, relative to the wanted one in L2, at which an average counts as reached.
TOLERANCE = 0.1


@cache
def exponent(sigma_rel: float) -> float:
    """γ of a profile, the solution of ``sigma_rel^2 (γ + 2)^2 (γ + 3) = γ + 1``.

    Args:
        sigma_rel: Above 0 and up to 0.28, within which γ is positive and falls as ``sigma_rel`` grows.
    """
    low, high = 0.0, 1 / sigma_rel  # sigma_rel < 1 / γ
    for _ in range(100):
        middle = (low + high) / 2
        too_wide = middle + 1 > (sigma_rel * (middle + 2)) ** 2 * (middle + 3)
        low, high = (middle, high) if too_wide else (low, middle)
    return low


class PowerFunctionAverages:
    """``average <- b average + (1 - b) weights`` with ``b = (1 - 1/n)^(γ+1)`` at update n, for several γ.

    The first update copies the weights. After n updates, those of update i count for
    ``(i/n)^(γ+1) - ((i-1)/n)^(γ+1)``, the profile's integral over update i, whatever n is. Buffers are not averaged.

    Args:
        model: Whose parameters.
        sigma_rels: The averages' relative standard deviations.
    """

    def __init__(self, model: nn.Module, sigma_rels: Sequence[float]) -> None:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.averages = {sigma_rel: {name: x.clone() for name, x in weights.items()} for sigma_rel in sigma_rels}
        self._weights = list(map(own_part, weights.values()))
        self._averages = {sigma_rel: list(map(own_part, x.values())) for sigma_rel, x in self.averages.items()}

    @torch.no_grad()
    def update(self, number: Tensor, counts: Tensor) -> None:
        """Take in the present weights.

        Args:
            number: Of this update, counted from 1, an int scalar on their device.
            counts: Whether to, a bool scalar on their device.
        """
        for sigma_rel, average in self._averages.items():
            power = exponent(sigma_rel) + 1

            def share(dtype: torch.dtype, power: float = power) -> Tensor:  # 1 - b
                return torch.where(counts, -torch.expm1(power * torch.log1p(-1 / number.to(dtype))), 0)

            move_towards(average, self._weights, share)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages as ``"sigma_rel/parameter"`` tensors."""
        return {f"{key}/{name}": x for key, average in self.averages.items() for name, x in average.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            RuntimeError: It is that of other averages, or of another model.
        """
        own = self.state_dict()
        if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in own.items()}:
            raise RuntimeError("other averages, or other parameters")
        for name, average in own.items():
            average.copy_(state[name])


@attrs.frozen
class Profile:
    """How much each moment of training counts in an average.

    Attributes:
        updates: t, the number of updates that it has seen.
        sigma_rel: Its standard deviation, relative to t.
    """

    updates: float
    sigma_rel: float


def inner_product(one: Profile, other: Profile) -> float:
    """``∫ p_one(τ) p_other(τ) dτ`` (algorithm 3 of the paper)."""
    early, late = sorted((one, other), key=lambda profile: profile.updates)
    a, b = exponent(early.sigma_rel), exponent(late.sigma_rel)
    ratio: float = (early.updates / late.updates) ** b
    return (a + 1) * (b + 1) * ratio / ((a + b + 1) * late.updates)


def coefficients(stored: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """The weighted sum of stored profiles that comes closest to a wanted one, among those that sum to one.

    The constraint is ours: the scale of parameters matters here, and an average of equal ones has to be themselves.

    Args:
        stored: At least one.
        wanted: Any.

    Returns:
        The coefficients, float64 ``(len(stored),)``, and the distance that is left, in L2, relative to the wanted
        profile's norm: 0 where it is reached exactly.
    """
    unit = [Profile(profile.updates / wanted.updates, profile.sigma_rel) for profile in stored]  # of time
    goal = Profile(1, wanted.sigma_rel)
    gram = torch.tensor([[inner_product(one, other) for other in unit] for one in unit], dtype=torch.float64)
    products = torch.tensor([inner_product(one, goal) for one in unit], dtype=torch.float64)
    size = len(unit)
    # Stationary points of the Lagrangian: gram x + multiplier = products, sum x = 1
    system = torch.ones(size + 1, size + 1, dtype=torch.float64)
    system[:size, :size], system[size, size] = gram, 0
    right = torch.cat([products, torch.ones(1, dtype=torch.float64)])
    found = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:size, 0]
    norm = inner_product(goal, goal)
    left = norm - 2 * found @ products + found @ gram @ found
    return found, (max(0.0, float(left)) / norm) ** 0.5


def averaged_weights(
    folder: Path, checkpoint: Checkpoint, sigma_rels: Sequence[float], wanted: float
) -> dict[str, Tensor]:
    """The average of another length that ends where a checkpoint was saved, by parameter.

    Args:
        folder: Where the run keeps its averages.
        checkpoint: The end; what it holds is used too.
        sigma_rels: Those that were tracked.
        wanted: The ``sigma_rel`` that is wanted.

    Raises:
        UserError: None were kept, they do not reach so far, or one is damaged.
    """
    updates: int = checkpoint.state["ema_updates"]
    if not checkpoint.has("averages") or not updates:
        raise UserError(
            f"no averages were kept that one of sigma_rel {wanted:g} could be made of",
            str(checkpoint.path),
            "they are where train.ema_snapshots is above 0, and train.ema_sigma_rel names some",
        )
    earlier = (one for one in snapshots(folder) if one.step < checkpoint.step and one.state["ema_updates"])
    kept = [*earlier, checkpoint]
    stored = [Profile(one.state["ema_updates"], sigma_rel) for one in kept for sigma_rel in sigma_rels]
    found, distance = coefficients(stored, Profile(updates, wanted))
    if not distance <= TOLERANCE:  # nan, too
        raise UserError(
            f"an average of sigma_rel {wanted:g} cannot be made of those kept: its profile is {distance:.0%} off",
            str(folder),
            f"within {TOLERANCE:.0%}: {_reached(stored, updates)}; more of train.ema_snapshots reach farther",
        )
    shares = found.reshape(len(kept), len(sigma_rels)).tolist()
    return _weighted_sum(
        (share, average)
        for one, row in zip(kept, shares, strict=True)
        for share, average in zip(row, _by_sigma_rel(one, sigma_rels), strict=True)
    )


def keep_averages_up_to(folder: Path, step: int) -> None:
    """Drop what was kept of later steps, which will be taken again."""
    for later in (other for other in steps_of_checkpoints(folder) if other > step):
        remove_checkpoint(folder, later)


def _by_sigma_rel(kept: Checkpoint, sigma_rels: Sequence[float]) -> Iterator[dict[str, Tensor]]:
    tensors = kept.load("averages")
    for sigma_rel in sigma_rels:
        start = f"{sigma_rel}/"
        yield {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


def _weighted_sum(terms: Iterator[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """In float64: coefficients of both signs cancel."""
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for share, tensors in terms:
        for name, x in tensors.items():
            dtypes[name] = x.dtype
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + share * x.double()
    return {name: total.to(dtypes[name]) for name, total in sums.items()}


def _reached(stored: Sequence[Profile], updates: int) -> str:
    """The lengths that can be made, in words."""
    tried = [hundredths / 100 for hundredths in range(1, 29)]
    within = [s for s in tried if coefficients(stored, Profile(updates, s))[1] <= TOLERANCE]
    tracked = sorted({profile.sigma_rel for profile in stored})
    return f"{min([*within, *tracked]):g} to {max([*within, *tracked]):g}"
