"""Everything that can be said of a trained model: figures in each direction, the bound, and what is decided when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from mtdiff_core.data.loading import Batch
from mtdiff_core.diffusion.bound import BoundEvaluator, Steps, log_snr_grid
from mtdiff_core.errors import UserError
from mtdiff_core.evaluation.run_data import RunData
from mtdiff_core.files import write_atomically
from mtdiff_core.generation import Settings, as_generated, batch_rows, sample_batch
from mtdiff_core.interfaces.metric import Figure, ScoredBatch, Scorer
from mtdiff_core.intervals import mean_interval
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.sampling_job.given import read_given
from mtdiff_core.training.imputation import posteriors

if TYPE_CHECKING:
    from mtdiff_core.diffusion.bound import Bound
    from mtdiff_core.diffusion.denoiser import Sampled
    from mtdiff_core.directions import Direction
    from mtdiff_core.generation import Generated
    from mtdiff_core.interfaces.metric import Metric
    from mtdiff_core.interfaces.workshop import Workshop
    from mtdiff_core.sampling_job.given import Given, KnownRows
    from mtdiff_core.training.run import TrainedModel

# Points of the curves c_t / s_t.
CURVE_POINTS = 81
# Samples of each direction that are drawn.
SHOWN = 16


def _each_once(directions: Sequence[Direction]) -> list[Direction]:
    return list(dict.fromkeys(directions))


@attrs.frozen(kw_only=True)
class EvaluationOptions:
    """What is evaluated, and how closely.

    Attributes:
        metrics: By name, as a user asked for them.
        asked: Names of metrics that were asked for one by one: one that nothing can be said of is an error then.
        directions: Which directions.
        num: Samples in each direction; given values come from the test split, or the training split where there is no
            other, and are as many as it has at most.
        settings: How to sample.
        fewer_steps: Numbers of sampling steps at which the first direction is judged too.
        bound_steps: T of the bound's chain; 0 leaves the bound out.
        bound_calls: Steps of it that are computed for each sample.
        bound_num: Held-out samples that it is computed for.
    """

    metrics: Mapping[str, Metric]
    asked: Sequence[str] = ()
    directions: Sequence[Direction] = attrs.field(converter=_each_once)
    num: int
    settings: Settings
    fewer_steps: Sequence[int] = ()
    bound_steps: int = 1000
    bound_calls: int = 64
    bound_num: int = 256


class Evaluation:
    """Evaluates one trained model.

    Args:
        trained: The model.
        options: What to evaluate.
        workshop: Device, seed, cache and progress.

    Attributes:
        shown: The first samples of each direction, once it was judged.
    """

    def __init__(self, trained: TrainedModel, options: EvaluationOptions, workshop: Workshop) -> None:
        self.trained, self.options, self.workshop = trained, options, workshop
        self.experiment, self.model = trained.experiment, trained.experiment.model
        self.modalities = {name: source.modality for name, source in self.experiment.sources.items()}
        self.data = RunData(self.experiment, workshop)
        self.shown: dict[str, Generated] = {}

    def run(self) -> dict[str, Any]:
        """All of it, as JSON data.

        Raises:
            UserError: A metric cannot work on this run, or the data cannot be read.
        """
        # What may be refused comes before hours of sampling
        scorers = {str(one): self._scorers(one) for one in self.options.directions}
        self._check_asked(scorers)
        complete = list(self._complete(self.options.bound_num)) if self.options.bound_steps else []
        directions = [self._judge(one, scorers[str(one)], self.options.settings) for one in self.options.directions]
        return {
            **self._about(),
            "directions": directions,
            "by_steps": self._by_steps(directions[0]) if directions else [],
            "bound": [self._bound(one, complete) for one in self.options.directions] if complete else [],
            "aggregation": self._aggregation(),
        }

    def _about(self) -> dict[str, Any]:
        recipe = self.experiment.recipe
        return {
            "recipe": recipe.name,
            "description": recipe.head.description,
            "training_seed": recipe.seed,
            "step": self.trained.step,
            "weights": self.trained.sha256,
            "ema": self.trained.ema,
            "settings": attrs.asdict(self.options.settings),
            "split": self.data.held_out(),
        }

    def _scorers(self, direction: Direction) -> dict[str, list[Scorer]]:
        """Scorers of one direction by metric; metrics that have nothing to say of it are left out."""
        found = {}
        for name, metric in self.options.metrics.items():
            scorers = metric.scorers(direction.known, direction.generated, self.modalities, self.data)
            if scorers:
                found[name] = scorers
        return found

    def _check_asked(self, scorers: Mapping[str, Mapping[str, object]]) -> None:
        for name in self.options.asked:
            if not any(name in one for one in scorers.values()):
                raise UserError(
                    f"{name!r} needs {self.options.metrics[name].needs}, and no direction of this run has that",
                    "--metric",
                    f"directions evaluated: {', '.join(scorers)}",
                )

    def _judge(
        self, direction: Direction, scorers: Mapping[str, Sequence[Scorer]], settings: Settings
    ) -> dict[str, Any]:
        """The figures of one direction."""
        given = self._given(direction)
        rows = batch_rows(given.count, settings.batch_size)
        advance = self.workshop.progress(f"{direction}, {settings.steps} steps", settings.steps * len(rows))
        begun = time.perf_counter()
        for some in rows:
            known = given.rows(some)
            sampled = sample_batch(self.model, direction, known.known, some, settings, advance)
            if not some.start:
                self.shown[str(direction)] = as_generated(direction, self.modalities, sampled, known.truth).first(SHOWN)
            batch = self._scored(sampled, known, some)
            for scorer in (one for several in scorers.values() for one in several):
                scorer.update(batch)
        seconds = time.perf_counter() - begun
        figures, refused = self._figures(scorers)
        return {
            "direction": str(direction),
            "known": list(direction.known),
            "generated": list(direction.generated),
            "n": given.count,
            "steps": settings.steps,
            "seconds": round(seconds, 2),
            "figures": [figure_to_json(figure) for figure in figures],
            "refused": refused,
        }

    def _figures(self, scorers: Mapping[str, Sequence[Scorer]]) -> tuple[list[Figure], dict[str, str]]:
        """All figures, and why metrics refuse that were not asked for one by one."""
        figures: list[Figure] = []
        refused = {}
        for name, several in scorers.items():
            try:
                figures += [figure for scorer in several for figure in scorer.figures()]
            except UserError as error:
                if name in self.options.asked:
                    raise
                refused[name] = str(error)
        return figures, refused

    def _given(self, direction: Direction) -> Given:
        texts = dict.fromkeys(direction.known, f"@{self.data.held_out()}")
        return read_given(
            texts, direction, self.experiment.sources, self.data.open, self.options.num, self.options.num,
            self.options.settings.seed,
        )  # fmt: skip

    def _scored(self, sampled: Sampled, known: KnownRows, rows: slice) -> ScoredBatch:
        """Samples in natural units, beside the truth, and what is said of it, if there is one."""
        values = {name: self.modalities[name].natural(x.cpu()) for name, x in sampled.values.items()}
        if known.truth is None:
            return ScoredBatch(values=values)
        given = {name: x.to(self.workshop.device) for name, x in known.known.items()}
        steps = self.experiment.recipe.diffusion.steps
        # Not those of the last step, which have seen in z_t what the sampler itself has put there
        with global_stream(self.options.settings.seed, "posterior", *given, rows.start):
            distributions = posteriors(self.model, given, steps)
        return ScoredBatch(
            values=values,
            truth=self.data.natural(known.truth),
            present=known.truth.present,
            distributions=distributions,
        )

    def _by_steps(self, first: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The first direction again, in fewer steps."""
        direction = self.options.directions[0]
        cheap = {name: metric for name, metric in self.options.metrics.items() if not metric.costly}
        if not cheap:
            return []
        less = attrs.evolve(self.options, metrics=cheap, asked=())
        again = Evaluation(self.trained, less, self.workshop)
        again.data = self.data  # what was trained and extracted from it is there already
        found = [
            again._judge(direction, again._scorers(direction), attrs.evolve(self.options.settings, steps=steps))
            for steps in sorted(set(self.options.fewer_steps))
            if steps < self.options.settings.steps
        ]
        return [*found, dict(first)] if found else []

    def _bound(self, direction: Direction, batches: Sequence[Batch]) -> dict[str, Any]:
        """The bound of one direction, on samples that lack nothing."""
        options, schedule_steps = self.options, self.experiment.recipe.diffusion.steps
        grid = log_snr_grid(self.model.process, options.bound_steps, schedule_steps)
        evaluator = BoundEvaluator(
            model=self.model,
            modalities=self.modalities,
            known=direction.known,
            steps=Steps.some(grid, options.bound_calls),
            batch_size=options.settings.batch_size,
        )
        count = sum(len(batch) for batch in batches)
        calls = len(evaluator.steps.strata) - 1 if not evaluator.steps.drawn else 2 * (len(evaluator.steps.strata) - 1)
        advance = self.workshop.progress(f"bound of {direction}", (calls + 1) * count)
        random = generator(options.settings.seed, "bound", str(direction))
        bounds = [evaluator.bound(batch.to(self.workshop.device), random, progress=advance) for batch in batches]
        return {
            "direction": str(direction),
            "n": count,
            "steps": options.bound_steps,
            "computed": calls,
            **_summary(bounds),
        }

    def _complete(self, most: int) -> list[Batch]:
        """Held-out samples that lack nothing, the first so many."""
        found: list[Batch] = []
        for batch in self.data.model_batches(self.data.held_out()):
            whole = torch.stack(list(batch.present.values())).all(dim=0)
            left = most - sum(len(one) for one in found)
            for rows in torch.split(whole.nonzero().squeeze(1)[:left], self.options.settings.batch_size):
                values = {name: x[rows] for name, x in batch.values.items()}
                found.append(Batch(values=values, present={name: has[rows] for name, has in batch.present.items()}))
        count = sum(len(one) for one in found)
        if count < 2:
            raise UserError(
                f"the bound needs two samples with all modalities, and the {self.data.held_out()} split has {count}",
                "data",
                "add --no-bound",
            )
        return [batch for batch in found if len(batch)]

    def _aggregation(self) -> dict[str, Any]:
        """``c_t / s_t`` of every modality over log-SNR: which is decided when."""
        process = self.model.process
        log_snr = log_snr_grid(process, CURVE_POINTS, self.experiment.recipe.diffusion.steps)
        level = process.level_at(log_snr)
        ratio = {
            name: (c / level.sigma[:, process.layout.channels(name)])[:, 0, 0, 0].tolist()
            for name, c in level.coefficient.items()
        }
        return {"log_snr": log_snr.tolist(), "signal_to_noise": ratio}


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


def figure_to_json(figure: Figure) -> dict[str, Any]:
    """A figure as JSON data."""
    return {**attrs.asdict(figure), "of": list(figure.of), "interval": list(figure.interval)}


def write_evaluation(path: Path, found: Mapping[str, Any]) -> None:
    """Write what :meth:`Evaluation.run` found.

    Raises:
        UserError: The file cannot be written.
    """
    write_atomically(path, strict_json(found))


def strict_json(data: Any) -> str:
    """Data as JSON, which has no word for infinity: null stands for what is not finite."""
    return json.dumps(_finite(data), indent=1, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
