"""For each check of the kit for metrics one that breaks one promise: this check finds it, no other does."""

import attrs
import pytest
import torch

from mtdiff_core import Figure, Metric, Scorer, UserError, component
from mtdiff_core.testing import MetricKit
from tests.testing.planting import failing, names

FAULTS = {}


def only(check):
    """Register a fault that only this check may find."""

    def register(cls):
        FAULTS.setdefault(check, []).append(cls)
        return cls

    return register


class Share(Scorer):
    """Share of classes that are right."""

    def __init__(self, name):
        self.name, self.right = name, []

    def update(self, batch):
        if self.name in batch.truth:
            self.right.append(self.compared(batch))

    def compared(self, batch):
        there = batch.present[self.name]
        return (batch.values[self.name] == batch.truth[self.name])[there].float()

    def figures(self):
        if not self.right:
            raise UserError("no samples")
        return [self.figure(torch.cat(self.right))]

    def figure(self, right):
        value = float(right.mean())
        return Figure(name="share", of=(self.name,), value=value, interval=(0.0, 1.0), n=len(right), better="higher")


@component
class Sound(Metric):
    """It keeps every promise."""

    needs = "classes that are generated from something known"
    scorer = Share

    def scorers(self, known, generated, modalities, real):
        kinds = [name for name in generated if modalities[name].table_kind == "labels" and known]
        return [self.scorer(name) for name in kinds]


@only("it is described")
@component
class Unnamed(Sound):
    pass


@only("it says what it needs")
@component
class Silent(Sound):
    """It says nothing of what it needs."""

    needs = ""


@only("it can be asked of any direction")
@component
class Presuming(Sound):
    """It takes for granted that something is known."""

    def scorers(self, known, generated, modalities, real):
        _ = known[0] if len(generated) > 1 else ""
        return Sound.scorers(self, known, generated, modalities, real)


class Reversed(Share):
    def figure(self, right):
        return attrs.evolve(super().figure(right), interval=(1.0, 0.0))


@only("figures")
@component
class Backwards(Sound):
    """Intervals that end before they begin."""

    scorer = Reversed


class Boasted(Share):
    def figure(self, right):
        return attrs.evolve(super().figure(right), n=50_000)


@only("n is carried")
@component
class Boasting(Sound):
    """It counts samples that nobody gave it."""

    scorer = Boasted


class MeanOfMeans(Share):
    def compared(self, batch):
        right = super().compared(batch)
        return right.mean().expand(len(right)) if len(right) > 50 else right.round().mul(0.9)


@only("batches make no difference")
@component
class Batchwise(Sound):
    """Small batches count less."""

    scorer = MeanOfMeans


class Guessed(Share):
    def figure(self, right):
        return attrs.evolve(super().figure(right), interval=(self.drawn, 1.0))


@only("it is deterministic")
@component
class Guessing(Sound):
    """An interval that is drawn."""

    scorer = Guessed

    def scorers(self, known, generated, modalities, real):
        made = Sound.scorers(self, known, generated, modalities, real)
        for one in made:
            one.drawn = float(torch.rand(())) / 10
        return made


class Filled(Share):
    def compared(self, batch):
        return (batch.values[self.name] == batch.truth[self.name]).float()


@only("missing values")
@component
class Credulous(Sound):
    """Fillers count as truth."""

    scorer = Filled


class Hurried(Share):
    def figures(self):
        return [self.figure(torch.cat(self.right))]


@only("few samples")
@component
class Hurrying(Sound):
    """Without samples there is a traceback."""

    scorer = Hurried


class Greedy(Share):
    def update(self, batch):
        super().update(batch)
        batch.values[self.name].zero_()


@only("batches are left as they are")
@component
class Spoiling(Sound):
    """What it has seen is of no more use to others."""

    scorer = Greedy


def test_a_sound_metric_fails():
    assert failing(MetricKit, Sound) == {}


@pytest.mark.parametrize(
    ("check", "cls"), [(check, cls) for check, several in FAULTS.items() for cls in several], ids=str
)
def test_a_fault_is_not_found_or_other_checks_fail_too(check, cls):
    assert failing(MetricKit, cls).keys() == {check}


def test_a_check_was_never_seen_to_fail():
    assert FAULTS.keys() == names(MetricKit)
