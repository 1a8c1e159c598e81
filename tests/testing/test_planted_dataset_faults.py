"""For each check of the kit for data sets one that breaks one promise: this check finds it, no other does."""

import pytest
import torch

from mtdiff_core import DatasetSource, FieldSpec, MissingSplitError, Shard, component, option
from mtdiff_core.testing import DatasetKit
from tests.testing.planting import failing, names

FAULTS = {}
KINDS = ("even", "odd")


def only(check):
    """Register a fault that only this check may find."""

    def register(cls):
        FAULTS.setdefault(check, []).append(cls)
        return cls

    return register


class Rows:
    """Forty samples: a number, and whether it is even, which the third of every three lacks."""

    def __init__(self, classes=KINDS):
        self.fields = {
            "number": FieldSpec(shape=(2,), dtype="float32"),
            "kind": FieldSpec(shape=(), dtype="int64", classes=classes),
        }

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if not 0 <= index < 40:
            raise IndexError(index)
        sample = {"number": torch.tensor([index, 1.0])}
        return sample if index % 3 == 2 else {**sample, "kind": torch.tensor(index % 2)}


@component
class Sound(DatasetSource):
    """It keeps every promise."""

    rows = Rows

    def open(self, split):
        return self.rows()


@only("it is described")
@component
class Undescribed(Sound):
    """An option without a word."""

    size: int = option(1, help="")


@only("splits hold the same fields")
@component
class Renumbered(Sound):
    """The test split numbers its classes otherwise."""

    def open(self, split):
        return Rows(KINDS if split == "train" else KINDS[::-1])


@only("splits hold the same fields")
@component
class Untrainable(Sound):
    """Nothing to train on."""

    def open(self, split):
        if split == "train":
            raise MissingSplitError("none")
        return Rows()


class TooLong(Rows):
    def __len__(self):
        return 41


@only("length")
@component
class Miscounted(Sound):
    """One sample more than there are."""

    rows = TooLong


class Doubles(Rows):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "number": sample["number"].double()} if index == 7 else sample


@only("samples hold what fields say")
@component
class Imprecise(Sound):
    """One sample is of another type."""

    rows = Doubles


class Thirds(Rows):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "kind": torch.tensor(2)} if index == 7 else sample


@only("samples hold what fields say")
@component
class Unnamed(Sound):
    """A class without a name."""

    rows = Thirds


def filled(filler):
    class Filled(Rows):
        def __getitem__(self, index):
            return {"kind": filler, **super().__getitem__(index)}

    return Filled


@only("what is missing is said")
@component
class MinusOne(Sound):
    """-1 is no class."""

    rows = filled(torch.tensor(-1))


@only("what is missing is said")
@component
class Nothing(Sound):
    """None is no value."""

    rows = filled(None)


class Promising(Rows):
    def __init__(self):
        super().__init__()
        self.fields["more"] = FieldSpec(shape=(), dtype="float32")


@only("what is missing is said")
@component
class Promises(Sound):
    """A field that no sample has."""

    rows = Promising


class Jittered(Rows):
    def __init__(self):
        super().__init__()
        self.read = set()

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        again = index in self.read
        self.read.add(index)
        return {**sample, "number": sample["number"] + again}


@only("an index always means the same sample")
@component
class Jittering(Sound):
    """A sample changes when it is read again."""

    rows = Jittered


class Shuffled(Rows):
    def __init__(self):
        super().__init__()
        self.order = torch.randperm(40).tolist()

    def __getitem__(self, index):
        return super().__getitem__(self.order[index])


@only("resume")
@component
class Shuffling(Sound):
    """Another order whenever it is opened."""

    rows = Shuffled


class Stream:
    """The same samples in two shards."""

    shuffle_buffer, max_bad = 1, 0.0
    shards = (Shard(name="a", samples=25), Shard(name="b", samples=15))

    def __init__(self):
        self.fields = Rows().fields

    def read(self, shard, start):
        first = 25 * shard
        yield from range(first + start, first + self.shards[shard].samples)

    def decode(self, packed, fields):
        return {name: x for name, x in Rows()[packed].items() if name in fields}


@component
class Streaming(Sound):
    """It keeps every promise of a stream, too."""

    streamed = Stream

    def stream(self, split):
        return self.streamed()


class FromTheStart(Stream):
    def read(self, shard, start):
        yield from super().read(shard, 0)


class NothingLate(Stream):
    def read(self, shard, start):
        yield from () if start else super().read(shard, 0)


class LargeFromTheStart(FromTheStart):
    shards = (Shard(name="a", samples=100),)

    def decode(self, packed, fields):
        return super().decode(packed % 40, fields)


class Short(Stream):
    shards = (Shard(name="a", samples=25), Shard(name="b", samples=16))

    def read(self, shard, start):
        first = 25 * shard
        yield from range(first + start, min(40, first + 25))


class Everything(Stream):
    def decode(self, packed, fields):
        return Rows()[packed]


@only("stream")
@component
class Repeating(Streaming):
    """It begins again where it should go on."""

    streamed = FromTheStart


@only("stream")
@component
class RepeatingLate(Streaming):
    """So does a shard that is larger than what is looked at."""

    streamed = LargeFromTheStart


@only("stream")
@component
class Ending(Streaming):
    """It does not go on at all."""

    streamed = NothingLate


@only("stream")
@component
class ShortOfOne(Streaming):
    """A shard that holds fewer samples than it says."""

    streamed = Short


@only("stream")
@component
class Unasked(Streaming):
    """It decodes what nobody asked for."""

    streamed = Everything


@pytest.mark.parametrize("cls", [Sound, Streaming])
def test_a_sound_data_set_fails(cls):
    assert failing(DatasetKit, cls) == {}


@pytest.mark.parametrize(
    ("check", "cls"), [(check, cls) for check, several in FAULTS.items() for cls in several], ids=str
)
def test_a_fault_is_not_found_or_other_checks_fail_too(check, cls):
    assert failing(DatasetKit, cls).keys() == {check}


def test_a_check_was_never_seen_to_fail():
    assert FAULTS.keys() == names(DatasetKit)
