"""The order of a stream across epochs, resumes, workers and ranks; what is damaged; how much is held."""

import json
import subprocess
import sys
import threading
from collections import Counter
from itertools import islice

import pytest
import torch

from mtdiff_core import FieldSpec, Shard, UserError
from mtdiff_core.data.batches import bind, concatenated
from mtdiff_core.data.streaming import FirstSamples, stream_loader
from mtdiff_image import Image
from tests.data.test_loading import Number

SIZES = (5, 3, 7, 1, 4)
SAMPLES = sum(SIZES)
WORKERS = pytest.mark.parametrize("workers", [0, 2])
FIELDS = {"number": FieldSpec(shape=(), dtype="int64"), "image": FieldSpec(shape=(1, 4, 4), dtype="uint8")}


class NumberedStream:
    """Samples 0, 1, 2, ... in shards of some sizes; some cannot be read, others not be decoded, and shards be gone."""

    def __init__(self, sizes=SIZES, shuffle_buffer=6, max_bad=1.0, missing=(), damaged=(), gone=()):
        self.fields, self.shuffle_buffer, self.max_bad = FIELDS, shuffle_buffer, max_bad
        self.shards = [Shard(name=f"shard {i}", samples=size) for i, size in enumerate(sizes)]
        self.missing, self.damaged, self.gone = missing, damaged, gone
        self.reads, self.decoders = 0, set()

    def read(self, shard, start):
        if shard in self.gone:
            raise UserError("is not there", self.shards[shard].name)
        first = sum(one.samples for one in self.shards[:shard])
        for number in range(first + start, first + self.shards[shard].samples):
            self.reads += 1
            yield UserError("is missing", f"sample {number}") if number in self.missing else number

    def decode(self, packed, fields):
        self.decoders.add(threading.current_thread())
        if packed in self.damaged:
            raise UserError("is damaged", f"sample {packed}")
        image = torch.arange(0, 80, 20, dtype=torch.uint8).expand(1, 4, 4) + packed % 100
        return {field: {"number": torch.tensor(packed), "image": image}[field] for field in fields}


def sources(*names):
    return {name: bind(Image(flip=True) if name == "image" else Number(), name, name, FIELDS) for name in names}


def loader(stream=None, workers=0, batch_size=4, seed=0, read=("number",), **more):
    return stream_loader(stream or NumberedStream(), sources(*read), batch_size, seed, workers, **more)


def numbers(part, count):
    return [batch.values["number"].tolist() for batch in islice(part, count)]


def epochs(batches, size=SAMPLES):
    """The flat order, cut into epochs."""
    flat = [number for batch in batches for number in batch]
    return [flat[start : start + size] for start in range(0, len(flat), size)]


# The order


@WORKERS
@pytest.mark.parametrize("shuffle_buffer", [1, 2, 6, 19, 20, 1000])
@pytest.mark.parametrize("batch_size", [4, 6, 33])
def test_every_sample_comes_once_in_each_of_several_epochs(workers, shuffle_buffer, batch_size):
    order = epochs(numbers(loader(NumberedStream(shuffle_buffer=shuffle_buffer), workers, batch_size), 20))
    whole = [epoch for epoch in order if len(epoch) == SAMPLES]
    assert len(whole) >= 4
    assert all(Counter(epoch) == Counter(range(SAMPLES)) for epoch in whole)
    assert len({tuple(epoch) for epoch in whole[:4]}) == 4, "epochs repeat one order"


@WORKERS
@pytest.mark.parametrize("stop", [0, 1, 2, 4, 5, 7, 10, 13])
def test_a_stream_that_is_resumed_is_not_the_one_that_was_not_stopped(workers, stop):
    # batches of 4 out of 20: stops after 5 and 10 batches are at the end of an epoch, the others amid one and a window
    def part():
        return loader(workers=workers, read=("number", "image"), keep={"image": 0.5})

    whole, first, second = list(islice(part(), 15)), part(), part()
    before = list(islice(first, stop))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    after = list(islice(second, 15 - stop))
    for one, other in zip(whole, before + after, strict=True):
        for name in ("number", "image"):
            assert one.values[name].equal(other.values[name])
            assert one.present[name].equal(other.present[name])


def test_the_number_of_workers_changes_what_is_drawn():
    for alone, helped in zip(
        islice(loader(read=("number", "image")), 8), islice(loader(workers=3, read=("number", "image")), 8), strict=True
    ):
        assert alone.values["number"].equal(helped.values["number"])
        assert alone.values["image"].equal(helped.values["image"])


def test_workers_leave_decoding_to_the_caller():
    stream = NumberedStream()
    numbers(loader(stream, workers=2), 4)
    assert threading.current_thread() not in stream.decoders


def test_another_seed_gives_the_same_order():
    assert numbers(loader(seed=0), 5) != numbers(loader(seed=1), 5)


def test_a_loader_that_is_asked_again_does_not_go_on_where_it_stands():
    part = loader()
    assert numbers(part, 3) + numbers(part, 4) == numbers(loader(), 7)


def test_with_a_buffer_of_one_the_shards_are_not_read_in_their_own_order():
    (epoch,) = epochs(numbers(loader(NumberedStream(shuffle_buffer=1)), 5))
    firsts = [sum(SIZES[:i]) for i in range(len(SIZES))]
    shards = [list(range(first, first + size)) for first, size in zip(firsts, SIZES, strict=True)]
    starts = sorted(range(len(SIZES)), key=lambda i: epoch.index(firsts[i]))
    assert starts != sorted(starts), "the shards come in one order"
    assert epoch == [number for i in starts for number in shards[i]]


def test_a_buffer_does_not_shuffle_across_what_it_holds_or_beyond():
    stream = NumberedStream(sizes=(100,), shuffle_buffer=10)
    (epoch,) = epochs(numbers(loader(stream, batch_size=10), 10), 100)
    for place in range(0, 100, 10):
        window = epoch[place : place + 10]
        assert sorted(window) == list(range(place, place + 10))
        assert window != sorted(window)


def test_the_windows_of_one_shard_are_shuffled_alike_in_every_epoch():
    order = epochs(numbers(loader(NumberedStream(sizes=(SAMPLES,))), 20))
    assert len({tuple(epoch) for epoch in order}) == len(order) == 4


def test_more_samples_are_held_than_the_buffer_allows():
    class Held:
        alive, most = 0, 0

        def __init__(self, number):
            self.number = number
            Held.alive += 1
            Held.most = max(Held.most, Held.alive)

        def __del__(self):
            Held.alive -= 1

    class HoldingStream(NumberedStream):
        def read(self, shard, start):
            return map(Held, super().read(shard, start))

        def decode(self, packed, fields):
            return super().decode(packed.number, fields)

    numbers(loader(HoldingStream(sizes=(1000, 1000), shuffle_buffer=50), batch_size=2), 1500)
    assert 50 <= Held.most <= 50 + 2  # and those of one batch


def test_a_modality_is_hidden_in_another_share_than_asked_or_it_changes_between_epochs():
    kept = [[], []]
    part = iter(loader(batch_size=5, keep={"number": 0.3}))
    for epoch in kept:
        for batch in islice(part, SAMPLES // 5):
            epoch += batch.values["number"][batch.present["number"]].tolist()
    assert len(kept[0]) == round(0.3 * SAMPLES)
    assert sorted(kept[0]) == sorted(kept[1])


# Ranks


def test_ranks_share_samples_or_leave_some_out():
    seen = []
    for rank in range(2):
        size = sum(SIZES[rank::2])  # batches of one a rank: so many are its epoch
        first, second = epochs(numbers(loader(batch_size=2, rank=rank, ranks=2), 2 * size), size)
        assert Counter(first) == Counter(second)
        seen += first
    assert Counter(seen) == Counter(range(SAMPLES))


@pytest.mark.parametrize("fault", [{}, {"missing": (2, 8)}, {"damaged": (2, 8)}], ids=["whole", "missing", "damaged"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 2), (1, 4)])
def test_a_run_that_goes_on_with_another_number_of_processes_loses_samples_or_repeats_them(before, after, fault):
    def part(rank, ranks):
        stream = NumberedStream(**fault, shuffle_buffer=3)
        return loader(stream, batch_size=8, rank=rank, ranks=ranks, read=("number", "image"), keep={"image": 0.5})

    def batches(parts, count):
        return [concatenated(rows) for rows in zip(*(list(islice(part, count)) for part in parts), strict=True)]

    whole = batches([part(rank, before) for rank in range(before)], 12)
    seen, parts = [], [part(rank, before) for rank in range(before)]
    for ranks, count in ((before, 3), (after, 4), (before, 5)):  # and back again
        state = json.loads(json.dumps(parts[0].state_dict()))
        parts = [part(rank, ranks) for rank in range(ranks)]
        for one in parts:
            one.load_state_dict(state)
        seen += batches(parts, count)
    for one, other in zip(whole, seen, strict=True):
        for name in ("number", "image"):
            assert one.values[name].equal(other.values[name])
            assert one.present[name].equal(other.present[name])


def test_a_rank_decodes_rows_of_others_when_it_shares_their_shards():
    class Counted(NumberedStream):
        decoded = 0

        def decode(self, packed, fields):
            self.decoded += 1
            return super().decode(packed, fields)

    stream = Counted()
    part = loader(stream, batch_size=8, rank=1, ranks=4)
    part.load_state_dict(loader(batch_size=8).state_dict())
    numbers(part, 3)
    assert stream.decoded == 3 * 2


def test_nobody_says_that_processes_have_unequal_shards(caplog):
    for rank in range(2):
        numbers(loader(rank=rank, ranks=2), 1)
    (said,) = caplog.messages  # by the first process alone
    assert "2 processes, whose shards hold 4 to 16 samples: some samples come 4 times as often" in said
    caplog.clear()
    numbers(loader(NumberedStream(sizes=(3, 3)), ranks=2), 1)
    numbers(loader(NumberedStream(sizes=(3, 2)), ranks=1), 1)
    assert caplog.messages == []


def test_two_ranks_draw_the_same():
    one_picture = {"sizes": (1, 1), "shuffle_buffer": 1}
    parts = [
        loader(NumberedStream(**one_picture), batch_size=64, read=("image",), rank=rank, ranks=2) for rank in range(2)
    ]
    left, right = (next(iter(part)).values["image"].diff(dim=-1)[:, 0, 0, 0] < 0 for part in parts)
    assert len(left) == len(right) == 32
    assert not left.equal(right)


def test_what_cannot_be_shared_is_not_refused():
    with pytest.raises(UserError, match=r"5 shards cannot be shared by 6 processes\n.*--shard-size"):
        loader(batch_size=6, ranks=6)
    with pytest.raises(UserError, match=r"data\.batch_size: 4 samples cannot be shared equally by 3 processes"):
        loader(batch_size=4, ranks=3)


# Faults


@WORKERS
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_damaged_sample_is_given_or_takes_others_with_it(workers, fault, caplog):
    stream = NumberedStream(**{fault: (2, 3, 11)}, shuffle_buffer=10)
    batches = numbers(loader(stream, workers, batch_size=5), 8)
    assert all(len(batch) == 5 for batch in batches)
    for epoch in epochs(batches):
        assert set(epoch) == set(range(SAMPLES)) - {2, 3, 11}
    said = sorted(one for one in caplog.messages if one.startswith("left out"))
    assert said == [f"left out: sample {number}: is {fault}" for number in (11, 2, 3)], "not each is named once"


@WORKERS
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_too_many_damaged_samples_pass_or_are_told_with_a_traceback(workers, fault):
    part = loader(NumberedStream(**{fault: (2, 3, 11)}, max_bad=0.1), workers)
    with pytest.raises(UserError, match=r"^3 of 20 samples are damaged, more than max_bad = 0\.1\n") as found:
        numbers(part, 10)
    assert "sample 11" in str(found.value)
    assert "Traceback" not in str(found.value)


@WORKERS
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_damaged_samples_are_named_again_or_not_counted_any_more_after_a_resume(workers, fault, caplog):
    def part(state=None):
        stream = NumberedStream(sizes=(20,), shuffle_buffer=6, **{fault: (2, 7, 19)}, max_bad=0.1)
        made = loader(stream, workers)
        if state is not None:
            made.load_state_dict(json.loads(json.dumps(state)))
        return made

    first = part()
    numbers(first, 3)  # two windows with a damaged sample each; no worker is so far ahead that it has the third
    assert first.state_dict()["damaged"][:2] == [2, 7]
    second = part(first.state_dict())
    with pytest.raises(UserError, match=r"^3 of 20 samples are damaged, more than max_bad = 0\.1\n.*sample 19"):
        numbers(second, 5)
    third = part(second.state_dict())
    with pytest.raises(UserError, match=r"^3 of 20 samples"):  # they are as many as before
        numbers(third, 5)
    said = sorted(one for one in caplog.messages if one.startswith("left out"))
    assert said == [f"left out: sample {number}: is {fault}" for number in (19, 2, 7)], "not each is named once"


def test_what_one_rank_finds_damaged_is_unknown_after_a_resume_on_one():
    parts = [loader(NumberedStream(damaged=(2, 6)), rank=rank, ranks=2) for rank in range(2)]
    for part in parts:
        numbers(part, 10)  # every sample of all shards
    states = [json.loads(json.dumps(part.state_dict())) for part in parts]
    assert sorted(state["damaged"] for state in states) == [[2], [6]]
    alone = loader(NumberedStream(damaged=(2, 6)))
    alone.load_state_dict(parts[0].joint_state(states))
    assert alone.state_dict() == {"number": 10, "samples": SAMPLES, "lanes": 2, "damaged": [2, 6]}


def test_a_stream_of_more_samples_is_gone_on_with():
    first = loader()
    numbers(first, 3)
    more = loader(NumberedStream(sizes=(*SIZES, 2)))
    with pytest.raises(UserError, match="20 training samples then, 22 now"):
        more.load_state_dict(first.state_dict())
    assert more.state_dict()["number"] == 0


def test_what_one_rank_cannot_read_is_passed_over_after_a_resume():
    parts = [loader(NumberedStream(), rank=rank, ranks=2) for rank in range(2)]
    numbers(parts[0], 3)
    numbers(parts[1], 2)
    states = [part.state_dict() for part in parts]
    assert parts[0].joint_state(states)["number"] == 2


def test_a_sample_that_was_packed_again_stays_damaged():
    first = loader(NumberedStream(damaged=(2, 3)))
    numbers(first, SAMPLES // 4)
    assert first.state_dict()["damaged"] == [2, 3]
    mended = loader(NumberedStream(damaged=(3,)))
    mended.load_state_dict(first.state_dict())
    numbers(mended, SAMPLES // 4)
    assert mended.state_dict()["damaged"] == [3]


def test_many_damaged_samples_fill_the_screen(caplog):
    stream = NumberedStream(sizes=(200,), damaged=range(0, 200, 2), shuffle_buffer=200)
    numbers(loader(stream, batch_size=20), 10)
    assert len(caplog.messages) == 10 + 3
    assert caplog.messages[-1] == "left out: 64 samples so far"


@WORKERS
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_stream_of_which_nothing_can_be_read_goes_on_for_ever(workers, fault):
    with pytest.raises(UserError, match="none of"):
        numbers(loader(NumberedStream(**{fault: range(SAMPLES)}), workers), 1)


@WORKERS
def test_a_shard_that_vanishes_takes_samples_before_it_away_or_those_after_it_once_it_is_back(workers):
    whole = numbers(loader(batch_size=3), 14)
    last = max(range(len(SIZES)), key=lambda i: next(n for n, b in enumerate(whole) if sum(SIZES[:i]) in b))
    stopped, before = loader(NumberedStream(gone=[last]), workers, batch_size=3), []

    def take():
        for batch in stopped:
            before.append(batch.values["number"].tolist())

    with pytest.raises(UserError, match=rf"^shard {last}: is not there$"):
        take()
    assert before
    assert before == whole[: len(before)]
    mended = loader(workers=workers, batch_size=3)
    mended.load_state_dict(stopped.state_dict())
    assert before + numbers(mended, 14 - len(before)) == whole


def test_a_program_that_ends_amid_a_stream_aborts():
    program = """if True:
        import torch
        from tests.data.test_streaming import NumberedStream, loader

        class SlowStream(NumberedStream):
            def decode(self, packed, fields):
                for _ in range(20):  # longer than the nodes wait for their threads
                    torch.randn(300, 300) @ torch.randn(300, 300)
                return super().decode(packed, fields)

        batches = iter(loader(SlowStream(), workers=2, batch_size=16))
        next(batches)"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# The first samples


def test_the_first_samples_are_others_or_read_before_they_are_asked_for():
    stream = NumberedStream()
    first = FirstSamples(stream, 12)
    assert stream.reads == 0
    assert int(first[3]["number"]) == 3
    assert stream.reads == 4
    assert len(first) == 12
    assert [int(first[i]["number"]) for i in range(12)] == list(range(12))
    assert int(first[-1]["number"]) == 11
    with pytest.raises(IndexError):
        first[12]


def test_a_damaged_one_of_the_first_samples_is_given(caplog):
    first = FirstSamples(NumberedStream(missing=(1,), damaged=(2, 5)), 6)
    assert [int(first[i]["number"]) for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert len(caplog.messages) == 3
    with pytest.raises(UserError, match="none of the samples can be read"):
        FirstSamples(NumberedStream(missing=range(6)), 6)[0]
