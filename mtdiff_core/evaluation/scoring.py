"""The metrics of one direction while it is judged: one that fails does not take the others, or the samples, along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.metric import Figure, ScoredBatch, Scorer
from mtdiff_core.registry.plugin import PluginError, in_one_line
from mtdiff_core.registry.results import instance_of, maker_of

if TYPE_CHECKING:
    from mtdiff_core.directions import Direction
    from mtdiff_core.interfaces.metric import Metric, RealData
    from mtdiff_core.interfaces.modality import Modality


class Scoring:
    """Scorers of one direction, by metric.

    A metric that was asked for one by one ends the evaluation if it refuses or fails. Any other is left out from there
    on, and why is kept: nobody asked for it, and samples may have taken hours.

    Args:
        metrics: By name, as a user asked for them.
        asked: Names of those that were asked for one by one.

    Attributes:
        scorers: By metric; metrics that have nothing to say of the direction are left out.
        refused: Why others are missing, by metric.
        answered: Metrics that have given a figure.
    """

    def __init__(self, metrics: Mapping[str, Metric], asked: Sequence[str]) -> None:
        self.metrics, self.asked = metrics, asked
        self.scorers: dict[str, list[Scorer]] = {}
        self.refused: dict[str, str] = {}
        self.answered: set[str] = set()

    def find(self, direction: Direction, modalities: Mapping[str, Modality], real: RealData) -> None:
        """Ask each metric for its scorers.

        Raises:
            UserError: One that was asked for cannot work.
        """
        for name, metric in self.metrics.items():
            with self._watched(name, "scorers"):
                found = metric.scorers(direction.known, direction.generated, modalities, real)
                if found:
                    self.scorers[name] = [instance_of(one, Scorer, "each of its scorers") for one in found]

    def update(self, batch: ScoredBatch) -> None:
        """Show a batch to all scorers.

        Raises:
            UserError: One that was asked for cannot judge it.
        """
        for name, several in list(self.scorers.items()):
            with self._watched(name, "update"):
                for scorer in several:
                    scorer.update(batch)

    def figures(self) -> list[Figure]:
        """The figures of all batches.

        Raises:
            UserError: A metric that was asked for refuses.
        """
        figures: list[Figure] = []
        for name, several in list(self.scorers.items()):
            with self._watched(name, "figures"):
                found = [_checked(figure) for scorer in several for figure in scorer.figures()]
                figures += found
                self.answered |= {name} if found else set()
        return figures

    @contextmanager
    def _watched(self, name: str, during: str) -> Iterator[None]:
        """Inside the block a metric is at work."""
        metric, asked = self.metrics[name], name in self.asked
        try:
            yield
        except UserError as error:
            if asked:
                raise UserError(str(error), f"metric {name!r} of {maker_of(metric)}") from error
            self._leave_out(name, str(error))
        except PluginError as error:
            if asked:
                raise UserError(str(error), f"metric {name!r} of {maker_of(metric)}") from error
            self._leave_out(name, f"{maker_of(metric)}: {error}")
        except (Exception, SystemExit) as error:
            if asked:
                error.add_note(f"in {during} of metric {name!r} of {maker_of(metric)}")
                raise
            self._leave_out(name, f"{maker_of(metric)} failed in {during}: {in_one_line(error)}")

    def _leave_out(self, name: str, why: str) -> None:
        self.refused[name] = why
        self.scorers.pop(name, None)


def _checked(figure: object) -> Figure:
    """A figure that can be written down.

    Raises:
        PluginError: It cannot.
    """
    if not isinstance(figure, Figure):
        raise PluginError(f"figures() must give a list of Figure, and one of them is of {type(figure).__name__}")
    numbers = [figure.value, figure.n, *figure.interval, *figure.baselines.values()]
    wrong = [number for number in numbers if not isinstance(number, int | float)]
    if wrong:
        raise PluginError(f"the figure {figure.name!r} must be made of numbers, and {wrong[0]!r} is none of Python's")
    return figure
