"""The bound of the likelihood of held-out samples, as an evaluation tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import attrs
import torch

from mtdiff_core.data.batches import Batch, spread_rows
from mtdiff_core.diffusion.bound import BoundEvaluator, Steps, log_snr_grid
from mtdiff_core.errors import UserError
from mtdiff_core.intervals import mean_interval
from mtdiff_core.randomness import generator
from mtdiff_core.world import ALONE, World

if TYPE_CHECKING:
    from mtdiff_core.diffusion.bound import Bound
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.directions import Direction
    from mtdiff_core.evaluation.run_data import RunData
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.interfaces.workshop import Workshop

# Samples whose bound one process computes at a time; several steps of them go into one call of the network.
SHARED = 32


@attrs.frozen(kw_only=True)
class Likelihood:
    """Bounds the likelihood of some samples under one model.

    Attributes:
        model: The joint model.
        modalities: Its modalities, bound.
        batches: The samples, which lack nothing.
        steps: T of the bound's chain.
        calls: Steps of it that are computed for each sample.
        diffusion_steps: Steps of the training's own grid, which says how far the noise goes.
        batch_size: Rows of one call of the network.
        seed: Of the noise.
        workshop: Device and progress.
        world: Processes that call this together and share out the batches.
    """

    model: MultiModalDiffusion
    modalities: Mapping[str, Modality]
    batches: Sequence[Batch]
    steps: int
    calls: int
    diffusion_steps: int
    batch_size: int
    seed: int
    workshop: Workshop
    world: World = ALONE

    def of(self, direction: Direction) -> dict[str, Any]:
        """The bound of one direction, as JSON data."""
        grid = log_snr_grid(self.model.process, self.steps, self.diffusion_steps)
        evaluator = BoundEvaluator(
            model=self.model,
            modalities=self.modalities,
            known=direction.known,
            steps=Steps.some(grid, self.calls),
            batch_size=self.batch_size,
        )
        strata = len(evaluator.steps.strata) - 1
        computed = 2 * strata if evaluator.steps.drawn else strata
        count = sum(map(len, self.batches))
        advance = self.workshop.progress(f"bound of {direction}", (computed + 1) * count)

        def bound(index: int) -> Bound:
            random = generator(self.seed, "bound", str(direction), index)
            batch = self.batches[index].to(self.workshop.device)
            return evaluator.bound(batch, random, progress=lambda done: advance(done * self.world.size)).cpu()

        mine = [bound(index) for index in range(self.world.rank, len(self.batches), self.world.size)]
        turns = zip_longest(*self.world.gather(mine))
        bounds = [one for turn in turns for one in turn if one is not None]
        return {
            "direction": str(direction),
            "n": count,
            "steps": self.steps,
            "computed": computed,
            **_summary(bounds),
        }


def complete_batches(data: RunData, most: int, batch_size: int) -> list[Batch]:
    """Held-out samples that lack nothing, so many from all over the split, in batches that processes can share out.

    Raises:
        UserError: There are fewer than two.
    """
    samples, sources = data.open(data.held_out())
    chosen = spread_rows(samples, {source.field for source in sources.values()}, most)
    if len(chosen) < 2:
        raise UserError(
            f"the bound needs two samples with all modalities, and the {data.held_out()} split has {len(chosen)}",
            "data",
            "add --no-bound",
        )
    found: list[Batch] = []
    for batch in data.model_batches(data.held_out(), chosen):
        for rows in torch.split(torch.arange(len(batch)), min(SHARED, batch_size)):
            values = {name: x[rows] for name, x in batch.values.items()}
            found.append(Batch(values=values, present={name: has[rows] for name, has in batch.present.items()}))
    return found


def _summary(bounds: Sequence[Bound]) -> dict[str, Any]:
    """Bounds of some batches: means over samples, with intervals, term by term and group by group."""

    def mean(of: Callable[[Bound], torch.Tensor]) -> dict[str, Any]:
        values = torch.cat([of(one) for one in bounds]).cpu()
        return {"value": float(values.mean()), "interval": mean_interval(values)}

    first = bounds[0]
    count = sum(len(one.entries) for one in bounds)
    groups = [
        {
            "of": list(group),
            "nats": mean(lambda one, group=group: one.by_group[group]),  # type: ignore[misc]
            "prior": mean(lambda one, group=group: one.prior[group]),  # type: ignore[misc]
            "diffusion": mean(lambda one, group=group: one.diffusion[group].sum(dim=0)),  # type: ignore[misc]
            "reconstruction": {
                name: mean(lambda one, name=name: one.reconstruction[name])["value"]  # type: ignore[misc]
                for name in group
            },
            "by_log_snr": (torch.cat([one.diffusion[group] for one in bounds], dim=1).mean(dim=1)).tolist(),
        }
        for group in first.prior
    ]
    return {
        "nats": mean(lambda one: one.total),
        "bits_per_dimension": mean(lambda one: one.bits_per_dimension),
        # Of the mean, from the choice of steps alone; the interval holds it too
        "error_of_steps": float(torch.cat([one.variance for one in bounds]).sum().sqrt()) / count,
        "log_snr": first.log_snr.tolist(),
        "groups": groups,
    }
