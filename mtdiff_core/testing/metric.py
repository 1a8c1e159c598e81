"""The kit for metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor

from mtdiff_core.directions import Direction, direction
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.metric import Figure, Metric, ScoredBatch, Scorer
from mtdiff_core.randomness import global_stream
from mtdiff_core.testing.kit import Kit, check, require, skip
from mtdiff_core.testing.real_data import COUNTS, EVERY, KitData, generated, kit_data

Figures = dict[tuple[str, ...], Figure]


class MetricKit(Kit):
    """Checks of a metric, on the kit's own pictures, classes, maps and vectors.

    Attributes:
        most_directions: In how many of the directions that it speaks of figures are computed.
    """

    kind: ClassVar[str] = "metric"
    most_directions: ClassVar[int] = 2

    @classmethod
    def real(cls) -> KitData:
        """The data; what metrics train or extract is kept with it."""
        return kit_data()

    @classmethod
    @cache
    def directions(cls) -> tuple[Direction, ...]:
        """Those that it speaks of, at most so many, of different kinds."""
        found = [one for one in _directions(tuple(cls.real().modalities)) if cls._speaks_of(one)]
        steps = max(1, cls.most_directions - 1)
        chosen = {round(i * (len(found) - 1) / steps) for i in range(cls.most_directions)} if found else set()
        return tuple(found[i] for i in sorted(chosen))

    @classmethod
    def _speaks_of(cls, one: Direction) -> bool:
        try:
            return bool(cls._scorers(one))
        except Exception:  # a check of its own says so
            return False

    @classmethod
    def _scorers(cls, one: Direction) -> list[Scorer]:
        with global_stream(0, "kit", "metric"):
            return cast("Metric", cls.made()).scorers(one.known, one.generated, cls.real().modalities, cls.real())

    @classmethod
    def _batch(cls, one: Direction, rows: slice = EVERY) -> ScoredBatch:
        return generated(cls.real(), one, rows)

    @classmethod
    def _figures(cls, one: Direction, batches: Sequence[ScoredBatch]) -> Figures:
        """Figures of many samples; where they are still too few, there is nothing to look at."""
        try:
            return cls._figures_of_any(one, batches)
        except UserError as error:
            raise skip(str(error).split("\n")[0]) from error

    @classmethod
    @cache
    def _whole(cls, one: Direction) -> Figures:
        """Figures of all samples in one batch."""
        return cls._figures(one, [cls._batch(one)])

    @classmethod
    def _figures_of_any(cls, one: Direction, batches: Sequence[ScoredBatch]) -> Figures:
        """Figures of these batches by name and what they are about."""
        scorers = cls._scorers(one)
        for scorer in scorers:
            for batch in batches:
                scorer.update(batch)
        return {(figure.name, *figure.of): figure for scorer in scorers for figure in scorer.figures()}

    @classmethod
    def _each(cls) -> tuple[Direction, ...]:
        """The directions to look at; skipped where there is none."""
        if not cls.directions():
            raise skip("it speaks of none of the directions between pictures, classes, maps and vectors")
        return cls.directions()

    @check("say in needs what a direction must have")
    def test_it_says_what_it_needs(self) -> None:
        """``needs`` is read by users whom it has nothing to say."""
        needs = getattr(self.component_class(), "needs", None)
        require(
            isinstance(needs, str) and bool(needs.strip()),
            f"needs is {needs!r}",
            'say what a direction must have, in words: needs = "a picture that is generated"',
        )

    @check("give scorers of a direction, or none, whatever is known and generated")
    def test_it_can_be_asked_of_any_direction(self) -> None:
        """It has something to say of a direction, or nothing."""
        for one in _directions(tuple(self.real().modalities)):
            try:
                scorers = self._scorers(one)
            except UserError:
                raise
            except Exception as error:
                require(
                    False,
                    f"asked of {str(one)!r}, scorers ended in {type(error).__name__}: {error}",
                    "give [] for directions that it has nothing to say of",
                )
            require(
                isinstance(scorers, list) and all(isinstance(scorer, Scorer) for scorer in scorers),
                f"scorers gave {scorers!r}",
                "give a list of mtdiff_core.Scorer, which may be empty",
            )

    @check("give figures with all that is needed to read them")
    def test_figures(self) -> None:
        """Numbers are finite, intervals are intervals, and every figure says what it is about."""
        for one in self._each():
            found = self._whole(one)
            require(bool(found), f"it speaks of {str(one)!r}, and gives no figure", "give [] as its scorers instead")
            for figure in found.values():
                _require_readable(figure, tuple(self.real().modalities))

    @check("count in n the samples that a figure was computed from")
    def test_n_is_carried(self) -> None:
        """``n`` is no more than there are, and fewer samples never make it more."""
        for one in self._each():
            whole = self._whole(one)
            try:
                half = self._figures_of_any(one, [self._batch(one, slice(0, COUNTS["test"] // 2))])
            except UserError:
                half = {}
            for key, figure in whole.items():
                most = max(COUNTS.values())
                fewer = half[key].n if key in half else 0
                require(
                    isinstance(figure.n, int) and 0 < figure.n <= most and fewer <= figure.n,
                    f"{figure.name} of {COUNTS['test']} samples says n = {figure.n}, and of half of them {fewer}",
                    "count the samples that it was computed from",
                )

    @check("add up over samples, not over batches")
    def test_batches_make_no_difference(self) -> None:
        """The same samples give the same figures, however they are cut."""
        for one in self._each():
            count = COUNTS["test"]
            cuts = [0, 7, count // 2, count]
            parts = [self._batch(one, slice(a, b)) for a, b in pairwise(cuts)]
            _require_same(
                self._whole(one),
                self._figures(one, parts),
                "in three batches than in one",
                "add up over samples, and divide at the end: batches differ in size",
            )

    @check("draw from streams of the workshop's seed")
    def test_it_is_deterministic(self) -> None:
        """The same samples give the same figures."""
        for one in self._each():
            found: list[Figures] = []
            for seed in (1, 2):
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    found.append(self._figures_from_here(one))
            _require_same(
                found[0],
                found[1],
                "where torch's global generators stand elsewhere",
                "draw with a generator: mtdiff_core.randomness.generator(real.workshop.seed, ...)",
            )

    def _figures_from_here(self, one: Direction) -> Figures:
        """Figures, with the global generators as they stand."""
        metric, real = cast("Metric", self.made()), self.real()
        scorers = metric.scorers(one.known, one.generated, real.modalities, real)
        for scorer in scorers:
            scorer.update(self._batch(one))
        return {(figure.name, *figure.of): figure for scorer in scorers for figure in scorer.figures()}

    @check("leave out what has no true value: batch.present[name]")
    def test_missing_values(self) -> None:
        """A filler in place of a true value counts for nothing."""
        told = [one for one in self._each() if one.known]
        if not told:
            raise skip("it compares with no truth")
        for one in told:
            there = torch.arange(COUNTS["test"]) % 3 > 0
            found: list[Figures] = []
            for filler in (0, 1):
                batch = self._batch(one)
                truth = {name: _filled(x, there, filler) for name, x in batch.truth.items()}
                present = dict.fromkeys(truth, there)
                found.append(self._figures(one, [replace(batch, truth=truth, present=present)]))
            _require_same(
                found[0],
                found[1],
                "when true values change that are not there",
                "leave out what has no true value: batch.truth[name][batch.present[name]]",
            )

    @check("raise UserError where samples are too few, or give no figure")
    def test_few_samples(self) -> None:
        """No samples, or one, give a figure, none, or a message."""
        for one in self._each():
            for batches, what in (([], "no sample"), ([self._batch(one, slice(0, 1))], "one sample")):
                try:
                    found = self._figures_of_any(one, batches)
                except UserError:
                    continue
                except Exception as error:
                    require(
                        False,
                        f"after {what}, figures ended in {type(error).__name__}: {error}",
                        "raise UserError where samples are too few for a figure that means anything",
                    )
                for figure in found.values():
                    require(
                        math.isfinite(figure.value),
                        f"{figure.name} of {what} is {figure.value}",
                        "raise UserError where samples are too few for a figure that means anything",
                    )

    @check("leave batches as they are")
    def test_batches_are_left_as_they_are(self) -> None:
        """The next metric sees the same samples."""
        for one in self._each():
            batch = self._batch(one)
            before = {name: x.clone() for name, x in (*batch.values.items(), *_prefixed(batch.truth).items())}
            for scorer in self._scorers(one):
                scorer.update(batch)
            after = {**batch.values, **_prefixed(batch.truth)}
            changed = [name for name, x in before.items() if not x.equal(after[name])]
            require(not changed, f"update changes {', '.join(changed)} of its batch", "work on copies: no x.clamp_()")


def _directions(names: tuple[str, ...]) -> list[Direction]:
    """From one to all others, from all others to one, and from nothing."""
    known: list[tuple[str, ...]] = [(name,) for name in names]
    known += [tuple(other for other in names if other != name) for name in names]
    known.append(())
    return [direction(one, names) for one in known]


def _require_readable(figure: Figure, names: tuple[str, ...]) -> None:
    low, high = figure.interval
    require(bool(figure.name), "a figure has no name", "name it, such as 'accuracy'")
    require(
        bool(figure.of) and set(figure.of) <= set(names),
        f"{figure.name} is of {figure.of}",
        f"name the modalities that it is about, of {', '.join(names)}",
    )
    numbers: Mapping[str, float] = {"its value": figure.value, **figure.baselines}
    for what, number in numbers.items():
        require(math.isfinite(number), f"{figure.name}: {what} is {number}", "give finite numbers, or a UserError")
    require(
        math.isfinite(low) and math.isfinite(high) and low <= high,
        f"{figure.name} has the interval {figure.interval}",
        "give the ends of a 95% interval, the lower one first (mtdiff_core.intervals)",
    )
    require(figure.better in ("higher", "lower"), f"{figure.name}: better is {figure.better!r}", "higher or lower")


def _require_same(first: Figures, second: Figures, when: str, mend: str) -> None:
    require(first.keys() == second.keys(), f"it gives other figures {when}", mend)
    for key, figure in first.items():
        for what, one, other in (
            ("value", figure.value, second[key].value),
            ("n", figure.n, second[key].n),
            *(
                (f"interval's {end} end", figure.interval[i], second[key].interval[i])
                for i, end in enumerate(("lower", "upper"))
            ),
        ):
            require(
                math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4),
                f"the {what} of {figure.name} is {other:.6g} {when}, and {one:.6g} otherwise",
                mend,
            )


def _filled(truth: Tensor, there: Tensor, filler: int) -> Tensor:
    shape = (-1, *[1] * (truth.ndim - 1))
    return torch.where(there.reshape(shape), truth, torch.full_like(truth, filler))


def _prefixed(truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"the truth of {name}": x for name, x in truth.items()}
