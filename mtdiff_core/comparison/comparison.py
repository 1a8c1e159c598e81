"""Trains and judges what a plan says, each run once, and puts the figures side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdiff_core.comparison.costs import step_costs
from mtdiff_core.comparison.initial import initial_weights
from mtdiff_core.comparison.statistics import over_seeds, paired
from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.evaluation.evaluation import Evaluation, EvaluationOptions, strict_json
from mtdiff_core.files import read_text, write_atomically
from mtdiff_core.generation import Settings
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.training.checkpoint import find_checkpoint
from mtdiff_core.training.initial import equal_share
from mtdiff_core.training.run import load_trained_model, run_recipe
from mtdiff_core.training.run_directory import find_run_directory

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from mtdiff_core.comparison.plan import Entry, Plan
    from mtdiff_core.interfaces.workshop import Progress
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.training.run_sampling import SamplingProgress

# Of all samples and of what is drawn for judges: the same for every run.
SEED = 0
JUDGED = "judged"


class Comparison:
    """Carries a plan out.

    Args:
        plan: What to compare.
        registry: Plugins.
        device: Where to compute.
        sampling_progress: Shows sampling.
        progress: Shows all other work.
        announce: Told what is done next, in words.
    """

    def __init__(
        self,
        plan: Plan,
        registry: Registry,
        device: torch.device,
        sampling_progress: SamplingProgress,
        progress: Progress,
        announce: Callable[[str], None],
    ) -> None:
        self.plan, self.registry, self.device = plan, registry, device
        self.sampling_progress, self.progress, self.announce = sampling_progress, progress, announce
        self.initial: dict[int, dict[str, Tensor]] = {}

    def run(self) -> dict[str, Any]:
        """Train and judge what is not there yet, and compare.

        Raises:
            UserError: The input is at fault, or a folder holds something else.
            InterruptedRunError: Someone asked to stop; everything finished is kept, and the next call goes on.
        """
        entries = self.plan.entries()
        for number, entry in enumerate(entries, start=1):
            if self._is_judged(entry):
                continue
            if entry.seed not in self.initial:
                workshop = Workshop(self.device, entry.seed, self.progress)
                self.initial[entry.seed] = initial_weights(self.plan, entry.seed, workshop)
            self.announce(f"{number}/{len(entries)}: {entry.label}, seed {entry.seed}")
            try:
                self._train(entry)
            except InterruptedRunError as error:
                raise InterruptedRunError(error.what, "the same command goes on") from error
            for step in self.plan.steps(entry.recipe):
                self._judge(entry, step)
        costs = step_costs(self.plan, self.registry, self.device, self.progress)
        return compared(self.plan, costs)

    def _is_judged(self, entry: Entry) -> bool:
        """Whether all figures of a run are there; its checkpoints are not needed any more then."""
        files = [_judged_file(entry, step) for step in self.plan.steps(entry.recipe)]
        if not all(file.exists() for file in files):
            return False
        find_run_directory(entry.recipe, entry.folder, self.registry)  # refuses another recipe
        return all(_read(file)["how"] == how_judged(self.plan) for file in files)

    def _train(self, entry: Entry) -> None:
        existing = (entry.folder / "recipe.toml").exists()
        if existing:
            directory = find_run_directory(entry.recipe, entry.folder, self.registry)  # refuses another recipe
            checkpoint = find_checkpoint(directory.checkpoints)
            finished = checkpoint is not None and checkpoint.step == entry.recipe.train.steps
            if finished and (directory.samples / "grid.png").exists():
                return
        run_recipe(
            entry.recipe,
            self.registry,
            self.device,
            entry.folder,
            existing,
            self.sampling_progress,
            self.progress,
            self.plan.steps(entry.recipe),
            self.initial[entry.seed],
        )

    def _judge(self, entry: Entry, step: int) -> None:
        """Judge the model of one step, unless it was judged in the same way before."""
        file, how = _judged_file(entry, step), how_judged(self.plan)
        if file.exists() and _read(file)["how"] == how:
            return
        trained = load_trained_model(entry.folder, self.registry, self.device, step)
        recipe = trained.experiment.recipe
        options = EvaluationOptions(
            metrics=self.plan.metrics,
            asked=self.plan.asked,
            directions=self.plan.directions(recipe),
            num=self.plan.num,
            settings=Settings.of(recipe.sample, recipe.diffusion, SEED),
            bound_steps=0,
        )
        found = Evaluation(trained, options, Workshop(self.device, SEED, self.progress)).run()
        file.parent.mkdir(exist_ok=True)
        equal = equal_share(trained.experiment.model, self.initial[entry.seed])
        write_atomically(file, strict_json({"how": how, "directions": found["directions"], "equal_start": equal}))


def how_judged(plan: Plan) -> dict[str, Any]:
    """All that the figures of a model depend on besides the model, as JSON data."""
    metrics = {name: repr(metric) for name, metric in plan.metrics.items()}
    given = [list(one.known) for one in plan.directions(next(iter(plan.recipes.values())))]
    return {"metrics": metrics, "num": plan.num, "common": list(plan.common()), "given": given}


def _judged_file(entry: Entry, step: int) -> Path:
    return entry.folder / JUDGED / f"step-{step}.json"


def _judged(entry: Entry, step: int) -> dict[str, Any]:
    return _read(_judged_file(entry, step))


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(read_text(file))
        missing = {"how", "directions", "equal_start"} - found.keys()
    except (ValueError, AttributeError) as error:
        raise UserError("is damaged", str(file), "remove it: the model is judged again") from error
    if missing:
        raise UserError("is damaged", str(file), "remove it: the model is judged again")
    return found


def _equal_start(plan: Plan, label: str) -> float:
    """The least share, over seeds, of a recipe's initial weights that are those of the comparison."""
    of_all = [entry for entry in plan.entries() if entry.label == label]
    shares: list[float] = [_judged(entry, plan.steps(entry.recipe)[-1])["equal_start"] for entry in of_all]
    return min(shares)


Key = tuple[str, str, tuple[str, ...]]


def compared(plan: Plan, costs: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of finished runs side by side, as JSON data.

    Args:
        plan: The comparison.
        costs: Of a training step, as :func:`step_costs` returns them.
    """
    entries = plan.entries()
    found = {(e.label, e.seed, step): _figures(plan, e, step) for e in entries for step in plan.steps(e.recipe)}
    shared = [key for key in next(iter(found.values())) if all(key in figures for figures in found.values())]
    refused = sorted({reason for e in entries for step in plan.steps(e.recipe) for reason in _refusals(e, step)})
    if not shared:
        raise UserError(
            f"there is no figure of what the recipes share, {', '.join(plan.common())}",
            str(plan.folder),
            "\n  ".join([*refused, "the runs are kept: choose another --metric, or more samples with --num"]),
        )
    reference = next(iter(plan.recipes))
    return {
        "recipes": {label: recipe.head.description for label, recipe in plan.recipes.items()},
        "reference": reference,
        "seeds": list(plan.seeds),
        "shares": list(plan.shares),
        "steps": {label: plan.steps(recipe) for label, recipe in plan.recipes.items()},
        "how": how_judged(plan),
        "cost": {label: costs[label] for label in plan.recipes},
        "equal_start": {label: _equal_start(plan, label) for label in plan.recipes},
        "figures": [_side_by_side(plan, key, found, costs) for key in shared],
        "refused": refused,
    }


def _refusals(entry: Entry, step: int) -> Iterator[str]:
    """Why figures of one model are missing, and with them those of all others."""
    for one in _judged(entry, step)["directions"]:
        for name, reason in one["refused"].items():
            yield f"{name} of {entry.label}: {reason}"
        for figure in one["figures"]:
            if figure["value"] is None:
                yield f"{figure['name']} of {entry.label}: it is not finite after {step} steps with seed {entry.seed}"


def _figures(plan: Plan, entry: Entry, step: int) -> dict[Key, dict[str, Any]]:
    """Figures about what the recipes have in common, by what they are."""
    common, figures = set(plan.common()), {}
    for one in _judged(entry, step)["directions"]:
        start = " + ".join(one["known"]) or "joint"
        for figure in one["figures"]:
            if common >= set(figure["of"]) and figure["value"] is not None:
                figures[start, figure["name"], tuple(figure["of"])] = figure
    return figures


def _side_by_side(
    plan: Plan,
    key: Key,
    found: Mapping[tuple[str, int, int], Mapping[Key, Mapping[str, Any]]],
    costs: Mapping[str, Any],
) -> dict[str, Any]:
    """One figure of all recipes, along training."""
    reference = next(iter(plan.recipes))

    def values(label: str, place: int) -> list[float]:
        step = plan.steps(plan.recipes[label])[place]
        return [found[label, seed, step][key]["value"] for seed in plan.seeds]

    places = range(len(plan.shares))
    curves = {
        label: [list(curve) for curve in zip(*(values(label, i) for i in places), strict=True)]  # of each seed
        for label in plan.recipes
    }
    first = next(iter(found.values()))[key]
    return {
        "direction": key[0],
        "name": key[1],
        "of": list(key[2]),
        "better": first["better"],
        "unit": first["unit"],
        "features": first["features"],
        "n": first["n"],
        "baselines": first["baselines"],
        "values": {
            label: [{**over_seeds(values(label, i)), "each": values(label, i)} for i in places]
            for label in plan.recipes
        },
        "paired": {
            label: [paired(values(label, i), values(reference, i)) for i in places]
            for label in plan.recipes
            if label != reference
        },
        "at_equal_time": {
            label: _at_equal_time(plan, label, curves[label], costs) for label in plan.recipes
        },
    }  # fmt: skip


def _at_equal_time(
    plan: Plan, label: str, curves: Sequence[Sequence[float]], costs: Mapping[str, Any]
) -> list[dict[str, Any] | None]:
    """A recipe's figure after the time that the reference took to each share of its training.

    Args:
        plan: The plan.
        label: Which recipe.
        curves: Its values at each share, for each seed.
        costs: Of a step, by recipe.

    Returns:
        For each share: as :func:`over_seeds`, between two checkpoints in a straight line; None where this is before the
        first checkpoint, or after the end of training.
    """
    reference = plan.recipes[next(iter(plan.recipes))]
    times = [step * costs[label]["ratio"]["median"] for step in plan.steps(plan.recipes[label])]
    found: list[dict[str, Any] | None] = []
    for time in plan.steps(reference):  # in steps of the reference
        known = [value for curve in curves if (value := interpolated(time, times, curve)) is not None]
        found.append(over_seeds(known) if len(known) == len(curves) else None)
    return found


def interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """``y`` at ``x`` on the line through points of increasing ``xs``; None outside of them."""
    tolerance = 1e-9 * max(xs)
    for i, (left, right) in enumerate(zip(xs, [*xs[1:], xs[-1]], strict=True)):
        if left - tolerance <= x <= right + tolerance:
            weight = (x - left) / (right - left) if right > left else 0.0
            return ys[i] + weight * (ys[min(i + 1, len(ys) - 1)] - ys[i])
    return None
