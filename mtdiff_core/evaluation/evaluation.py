"""Everything that can be said of a trained model: figures in each direction, the bound, and what is decided when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mtdiff_core.diffusion.bound import log_snr_grid
from mtdiff_core.errors import UserError
from mtdiff_core.evaluation.likelihood import Likelihood, complete_batches
from mtdiff_core.evaluation.run_data import RunData
from mtdiff_core.evaluation.scoring import Scoring
from mtdiff_core.files import write_atomically
from mtdiff_core.generation import Settings, as_generated, batch_rows, sample_batch
from mtdiff_core.interfaces.metric import Figure, ScoredBatch
from mtdiff_core.randomness import global_stream
from mtdiff_core.sampling_job.given import read_given
from mtdiff_core.training.imputation import posteriors
from mtdiff_core.world import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution

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
        num: Samples in each direction; given values come from all over the test split, or the training split where
            there is no other, and are as many as it has at most.
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
    bound_calls: int = 24
    bound_num: int = 256


class Evaluation:
    """Evaluates one trained model.

    Args:
        trained: The model.
        options: What to evaluate.
        workshop: Device, seed, cache and progress.
        world: Processes that have the same model and call this together: they share out what the network computes, and
            the main one judges.

    Attributes:
        shown: The first samples of each direction, once it was judged; at the main process.
    """

    def __init__(
        self, trained: TrainedModel, options: EvaluationOptions, workshop: Workshop, world: World = ALONE
    ) -> None:
        self.trained, self.options, self.workshop, self.world = trained, options, workshop, world
        self.experiment, self.model = trained.experiment, trained.experiment.model
        self.modalities = {name: source.modality for name, source in self.experiment.sources.items()}
        self.data = RunData(self.experiment, workshop)
        self.shown: dict[str, Generated] = {}

    def run(self) -> dict[str, Any]:
        """All of it, as JSON data; at the main process, that is: at others figures are missing.

        Raises:
            UserError: A metric cannot work on this run, or the data cannot be read.
        """
        with self.world.main_first():
            self.data.held_out()
        # What may be refused comes before hours of sampling
        scorings = {str(one): self._scoring(one) for one in self.options.directions}
        self._check_asked(scorings)
        likelihood = self._likelihood() if self.options.bound_steps else None
        directions = [self._judge(one, scorings[str(one)], self.options.settings) for one in self.options.directions]
        self._check_answered(scorings)
        return {
            **self._about(),
            "directions": directions,
            "by_steps": self._by_steps(directions[0]) if directions else [],
            "bound": [likelihood.of(one) for one in self.options.directions] if likelihood else [],
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

    def _scoring(self, direction: Direction) -> Scoring:
        """Whatever can be said of one direction; nothing at other processes than the main one."""
        scoring = Scoring(self.options.metrics, self.options.asked)
        if self.world.is_main:
            scoring.find(direction, self.modalities, self.data)
        return scoring

    def _check_asked(self, scorings: Mapping[str, Scoring]) -> None:
        for name in self.options.asked if self.world.is_main else ():
            if not any(name in one.scorers for one in scorings.values()):
                raise UserError(
                    f"{name!r} needs {self.options.metrics[name].needs}, and no direction of this run has that",
                    "--metric",
                    f"directions evaluated: {', '.join(scorings)}",
                )

    def _check_answered(self, scorings: Mapping[str, Scoring]) -> None:
        for name in self.options.asked if self.world.is_main else ():
            if not any(name in one.answered for one in scorings.values()):
                raise UserError(
                    f"{name!r} has no figure of these samples",
                    "--metric",
                    f"it needs {self.options.metrics[name].needs}; in these directions the model does not tell it: "
                    + ", ".join(scorings),
                )

    def _judge(self, direction: Direction, scoring: Scoring, settings: Settings) -> dict[str, Any]:
        """The figures of one direction."""
        given = self._given(direction)
        begun = time.perf_counter()
        for batch in self._sampled(direction, given, settings):
            scoring.update(batch)
        seconds = time.perf_counter() - begun
        return {
            "direction": str(direction),
            "known": list(direction.known),
            "generated": list(direction.generated),
            "n": given.count,
            "steps": settings.steps,
            "seconds": round(seconds, 2),
            "figures": [figure_to_json(figure) for figure in scoring.figures()],
            "refused": scoring.refused,
        }

    def _sampled(self, direction: Direction, given: Given, settings: Settings) -> Iterator[ScoredBatch]:
        """Samples of one direction as metrics see them, in order, at the main process; each samples in its turn."""
        rows, turns = batch_rows(given.count, settings.batch_size), self.world.size
        progress = self.workshop.progress(f"{direction}, {settings.steps} steps", settings.steps * len(rows))

        def of_all(steps: int) -> None:
            progress(steps * len(at_once))

        for first in range(0, len(rows), turns):
            at_once = rows[first : first + turns]
            mine = at_once[self.world.rank : self.world.rank + 1]
            values = [self._values(direction, given, some, settings, of_all) for some in mine]
            gathered = [one for each in self.world.gather(values) for one in each]
            for some, natural in zip(at_once, gathered, strict=True) if self.world.is_main else ():
                yield self._scored(natural, given.rows(some), some)

    def _values(
        self, direction: Direction, given: Given, rows: slice, settings: Settings, progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """Samples of some rows in natural units, on the host."""
        known = given.rows(rows)
        sampled = sample_batch(self.model, direction, known.known, rows, settings, progress)
        if not rows.start:
            self.shown[str(direction)] = as_generated(direction, self.modalities, sampled, known.truth).first(SHOWN)
        return {name: self.modalities[name].natural(x.cpu()) for name, x in sampled.values.items()}

    def _given(self, direction: Direction) -> Given:
        texts = dict.fromkeys(direction.known, f"@{self.data.held_out()}")
        return read_given(
            texts, direction, self.experiment.sources, self.data.open, self.options.num, self.options.num,
            self.options.settings.seed, spread=True,
        )  # fmt: skip

    def _scored(self, values: Mapping[str, Any], known: KnownRows, rows: slice) -> ScoredBatch:
        """Samples in natural units, beside the truth, and what is said of it, if there is one."""
        if known.truth is None:
            return ScoredBatch(values=values)
        return ScoredBatch(
            values=values,
            truth=self.data.natural(known.truth),
            present=known.truth.present,
            distributions=self._posteriors(known.known, rows),
        )

    def _posteriors(self, known: Mapping[str, Tensor], rows: slice) -> dict[str, Distribution]:
        """What the model says of the rest in one call, as far as training has taught it to.

        Not what it said in the last step, when ``z_t`` held what the sampler itself had put there.
        """
        diffusion = self.experiment.recipe.diffusion
        if self.model.observes and not all(map(diffusion.tells, known)):
            return {}
        given = {name: x.to(self.workshop.device) for name, x in known.items()}
        with global_stream(self.options.settings.seed, "posterior", *given, rows.start):
            return posteriors(self.model, given, diffusion.steps)

    def _by_steps(self, first: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The first direction again, in fewer steps."""
        direction = self.options.directions[0]
        cheap = {name: metric for name, metric in self.options.metrics.items() if not metric.costly}
        if not cheap:
            return []
        less = attrs.evolve(self.options, metrics=cheap, asked=())
        again = Evaluation(self.trained, less, self.workshop, self.world)
        again.data = self.data  # what was trained and extracted from it is there already
        found = [
            again._judge(direction, again._scoring(direction), attrs.evolve(self.options.settings, steps=steps))
            for steps in sorted(set(self.options.fewer_steps))
            if steps < self.options.settings.steps
        ]
        return [*found, dict(first)] if found else []

    def _likelihood(self) -> Likelihood:
        batch_size = self.options.settings.batch_size
        return Likelihood(
            model=self.model,
            modalities=self.modalities,
            batches=complete_batches(self.data, self.options.bound_num, batch_size),
            steps=self.options.bound_steps,
            calls=self.options.bound_calls,
            diffusion_steps=self.experiment.recipe.diffusion.steps,
            batch_size=batch_size,
            seed=self.options.settings.seed,
            workshop=self.workshop,
            world=self.world,
        )

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
