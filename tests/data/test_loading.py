"""The order of samples, across epochs and resumes; presence; randomness; parts of a batch."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
import torch

from mtdiff_core import FieldSpec, Modality, UserError, component
from mtdiff_core.data.batches import Batch, Source, bind, concatenated, prepare_batch, spread_rows
from mtdiff_core.data.loading import training_loader
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from tests.conftest import CLONE

SAMPLES = 10
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@component
class Number(Modality):
    """A whole number that stands for itself, and must not be negative."""

    def check(self, spec):
        if spec.shape:
            raise UserError(f"a number is a scalar, and this field holds {spec}")

    def encoder(self, slot):
        raise NotImplementedError

    def decoder(self, slot, features):
        raise NotImplementedError

    def prepare(self, values, generator):
        if (values < 0).any():
            raise UserError("a number is negative")
        return values

    def natural(self, values):
        return values

    def parse(self, text):
        raise NotImplementedError


class NumberedSamples:
    """Sample i: the number i, its double where i is even, and a picture that is brighter on the right."""

    def __init__(self, count=SAMPLES):
        self.count = count
        number = FieldSpec(shape=(), dtype="int64")
        self.fields = {"number": number, "double": number, "image": FieldSpec(shape=(1, 4, 4), dtype="uint8")}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.arange(0, 80, 20, dtype=torch.uint8).expand(1, 4, 4) + index
        sample = {"number": torch.tensor(index), "image": image}
        return sample if index % 2 else {**sample, "double": torch.tensor(2 * index)}


def sources(*names, flip=False):
    fields = NumberedSamples().fields
    return {name: bind(Image(flip=flip) if name == "image" else Number(), name, name, fields) for name in names}


def loader(workers=0, seed=0, batch_size=4, samples=SAMPLES, read=None, keep=None, complete_share=0.0):
    read = read or sources("number")
    return training_loader(NumberedSamples(samples), read, batch_size, seed, workers, keep or {}, complete_share)


def numbers(batches, count):
    return [next(batches).values["number"].tolist() for _ in range(count)]


def epochs(batches):
    """The flat order, cut into epochs."""
    flat = [number for batch in batches for number in batch]
    return [flat[start : start + SAMPLES] for start in range(0, len(flat), SAMPLES)]


@WORKERS
def test_every_sample_comes_once_in_each_of_several_epochs(workers):
    order = epochs(numbers(iter(loader(workers)), 15))
    assert len(order) == 6
    assert all(Counter(epoch) == Counter(range(SAMPLES)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == len(order), "epochs repeat one order"


@WORKERS
@pytest.mark.parametrize("stop", [0, 1, 2, 5, 7, 10])
def test_every_sample_comes_once_per_epoch_across_a_resume(workers, stop):
    # batches of 4 out of 10: stops after 5 and 10 batches are at the end of an epoch, the others amid one
    whole = numbers(iter(loader(workers)), 15)
    first = loader(workers)
    before = numbers(iter(first), stop)
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(workers)
    second.load_state_dict(state)
    after = numbers(iter(second), 15 - stop)
    assert before + after == whole
    assert all(Counter(epoch) == Counter(range(SAMPLES)) for epoch in epochs(before + after))


@WORKERS
def test_a_resumed_loader_can_be_saved_and_resumed_again(workers):
    whole = numbers(iter(loader(workers)), 9)
    seen, state = [], None
    for _ in range(3):
        part = loader(workers)
        if state is not None:
            part.load_state_dict(state)
        seen += numbers(iter(part), 3)
        state = part.state_dict()
    assert seen == whole


class Loaders(NumberedSamples):
    """Each number is that of the process that loads it."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "number": torch.tensor(os.getpid())}


def test_workers_are_started_anew_at_the_end_of_an_epoch():
    batches = iter(training_loader(Loaders(), sources("number"), 4, seed=0, workers=2))
    by_batch = [set(batch) for batch in numbers(batches, 15)]  # six epochs
    one, other = by_batch[:2]
    assert len(one | other) == 2
    assert os.getpid() not in one | other
    assert by_batch == [one, other] * 7 + [one]


def test_a_loader_cannot_go_on_with_another_number_of_workers():
    read = sources("number", "image", flip=True)
    whole = list(islice(loader(read=read), 9))
    seen, state = [], None
    for workers in (2, 0, 3):
        part = loader(workers, read=read)
        if state is not None:
            part.load_state_dict(state)
        seen += list(islice(part, 3))
        state = json.loads(json.dumps(part.state_dict()))
    for one, other in zip(whole, seen, strict=True):
        assert all(one.values[name].equal(other.values[name]) for name in read)


def test_a_state_saved_before_the_first_batch_loses_nothing():
    untouched = loader().state_dict()
    resumed = loader()
    resumed.load_state_dict(untouched)
    assert numbers(iter(resumed), 5) == numbers(iter(loader()), 5)


def test_another_seed_gives_another_order_and_the_same_seed_the_same():
    assert numbers(iter(loader(seed=0)), 5) == numbers(iter(loader(seed=0)), 5)
    assert numbers(iter(loader(seed=0)), 5) != numbers(iter(loader(seed=1)), 5)


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 5)])
def test_batches_are_full_and_lose_nothing_where_epochs_meet(samples, batch_size):
    batches = numbers(iter(loader(samples=samples, batch_size=batch_size)), samples)  # batch_size whole epochs
    assert all(len(batch) == batch_size for batch in batches)
    assert Counter(number for batch in batches for number in batch) == dict.fromkeys(range(samples), batch_size)


@WORKERS
def test_a_field_that_a_sample_lacks_is_absent_and_all_others_are_present(workers):
    batches = iter(loader(workers, read=sources("number", "double", "image")))
    for batch in (next(batches) for _ in range(5)):
        even = batch.values["number"] % 2 == 0
        assert batch.present["number"].all()
        assert batch.present["image"].all()
        assert batch.present["double"].equal(even)
        assert batch.values["double"][even].equal(2 * batch.values["number"][even])
        assert len(batch) == 4


@WORKERS
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_another_number_of_samples_keeps_a_modality_than_asked_or_it_changes_between_epochs(workers, share):
    batches = iter(loader(workers, batch_size=5, keep={"number": share}))
    kept = [[], []]
    for epoch in kept:
        for batch in (next(batches) for _ in range(SAMPLES // 5)):
            epoch += batch.values["number"][batch.present["number"]].tolist()
    assert len(kept[0]) == round(share * SAMPLES)
    assert sorted(kept[0]) == sorted(kept[1])


def test_a_field_that_is_missing_comes_back_when_its_modality_is_kept():
    batches = iter(loader(read=sources("double"), keep={"double": 1.0}))
    assert not all(next(batches).present["double"].all() for _ in range(5))


@WORKERS
def test_too_few_of_a_batch_lack_nothing_or_a_resume_changes_which(workers):
    def part():
        # complete: the even numbers that keep their double
        keep = {"double": 0.5}
        return loader(workers, batch_size=6, read=sources("number", "double"), keep=keep, complete_share=0.5)

    batches, first = iter(part()), part()
    whole = [next(batches) for _ in range(10)]
    # every other place, so that no end of the batch is without them
    complete = [batch.values["number"][::2][batch.present["double"][::2]].tolist() for batch in whole]
    assert all(len(rows) == 3 for rows in complete)
    counts = Counter(number for rows in complete for number in rows)
    assert max(counts.values()) - min(counts.values()) <= 1, "some complete samples come more often than others"
    rest = Counter(number for batch in whole for number in batch.values["number"][1::2].tolist())
    assert rest == dict.fromkeys(range(SAMPLES), 3)
    assert numbers(iter(first), 4) == [batch.values["number"].tolist() for batch in whole[:4]]
    resumed = part()
    resumed.load_state_dict(first.state_dict())
    assert numbers(iter(resumed), 6) == [batch.values["number"].tolist() for batch in whole[4:]]


def test_batches_of_complete_samples_are_drawn_where_every_sample_lacks_something():
    with pytest.raises(UserError, match="every training sample lacks something"):
        loader(keep={"number": 0.0}, complete_share=0.5)
    assert numbers(iter(loader(keep={"number": 0.0})), 1)


@WORKERS
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_rows_of_all_ranks_are_not_the_batch_of_one_process(workers, ranks):
    def batches(**share):
        read = sources("number", "double", "image", flip=True)
        options = {"keep": {"number": 0.7}, "complete_share": 0.3, **share}
        part = training_loader(NumberedSamples(), read, 6, seed=0, workers=workers, **options)
        return list(islice(part, 7))

    parts = [batches(rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole, *shares in zip(batches(), *parts, strict=True):
        assert {len(share) for share in shares} == {6 // ranks}
        joined = concatenated(shares)
        for name, has in whole.present.items():
            assert joined.present[name].equal(has)
            assert joined.values[name].equal(whole.values[name])


def test_a_rank_loads_the_samples_of_others():
    class Counted(NumberedSamples):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    samples = Counted()
    next(iter(training_loader(samples, sources("number"), batch_size=6, seed=0, rank=1, ranks=3)))
    assert samples.asked == 2


def test_a_batch_that_cannot_be_shared_equally_is_not_refused():
    with pytest.raises(UserError, match=r"data\.batch_size: 4 samples.*by 3 processes\n.*multiple of 3"):
        training_loader(NumberedSamples(), sources("number"), batch_size=4, seed=0, ranks=3)


def test_aligned_pictures_are_flipped_apart():
    read = {name: bind(Image(flip=True), name, "image", NumberedSamples().fields) for name in ("left", "right")}
    batches = iter(loader(read=read))
    flipped = 0
    for batch in (next(batches) for _ in range(5)):
        assert batch.values["left"].equal(batch.values["right"])
        flipped += int((batch.values["left"].diff(dim=-1) < 0).any())
    assert flipped


def test_a_modality_reads_the_field_it_is_told_to():
    renamed = {"twice": bind(Number(), "twice", "double", NumberedSamples().fields)}
    batch = prepare_batch([NumberedSamples()[4], NumberedSamples()[3]], renamed, generator(0))
    assert batch.values["twice"][0] == 8
    assert batch.present["twice"].tolist() == [True, False]


def test_random_preparation_is_the_same_with_and_without_workers():
    def pictures(workers):
        batches = iter(loader(workers, read=sources("image", flip=True)))
        return torch.stack([next(batches).values["image"] for _ in range(8)])

    assert pictures(0).equal(pictures(2))


def test_random_preparation_depends_on_the_seed_and_the_batch_number_alone():
    def mirrored(seed, skip=0):
        part = loader(seed=seed, samples=1, batch_size=32, read=sources("image", flip=True))
        batches = iter(part)
        for _ in range(skip):
            next(batches)
        resumed = loader(seed=seed, samples=1, batch_size=32, read=sources("image", flip=True))
        resumed.load_state_dict(part.state_dict())
        images = next(iter(resumed)).values["image"]
        return images[:, 0, 0, 0] > images[:, 0, 0, -1]

    assert mirrored(0, skip=3).equal(mirrored(0, skip=3))
    assert not mirrored(0, skip=3).equal(mirrored(0, skip=4))
    assert not mirrored(0, skip=3).equal(mirrored(1, skip=3))


def test_a_value_out_of_range_is_reported_with_its_field_and_modality():
    negative = [{"number": torch.tensor(1)}, {"number": torch.tensor(-1)}]
    with pytest.raises(UserError, match=r"data field 'number' for modality 'number'.*negative"):
        prepare_batch(negative, sources("number"), generator(0))


@pytest.mark.parametrize("wrong", [torch.tensor([1, 2]), torch.tensor(1.0), 1])
def test_a_later_sample_that_is_not_what_the_data_set_says_is_taken_or_refused_without_its_field(wrong):
    well = NumberedSamples()[0]
    with pytest.raises(UserError, match=r"^data: a sample's field 'number' is .*, and is said to be int64 scalar"):
        prepare_batch([well, {**well, "number": wrong}], sources("number"), generator(0))


class FailingSamples(NumberedSamples):
    """Sample 3 cannot be read."""

    def __getitem__(self, index):
        if index == 3:
            raise {"UserError": UserError("cannot be read", "sample 3"), "KeyError": KeyError(3)}[self.error]
        return super().__getitem__(index)


# Whoever looks at an error keeps what its traceback refers to, and with that the loader.
PROGRAM = """if True:
    from tests.data.test_loading import FailingSamples, sources, training_loader
    samples = FailingSamples()
    samples.error = {error!r}
    batches = iter(training_loader(samples, sources("number"), 4, 0, 1))
    try:
        while True:
            next(batches)
    except Exception as error:
        kept = error
    print(kept)
"""


@pytest.mark.parametrize("error", ["UserError", "KeyError"])
def test_a_program_whose_worker_failed_never_ends_or_a_user_reads_a_traceback(error):
    command = [sys.executable, "-c", PROGRAM.format(error=error)]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if error == "UserError":
        assert done.stdout == "sample 3: cannot be read\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_program_that_leaves_off_amid_its_batches_never_ends(workers):
    program = f"""if True:
        from tests.data.test_loading import loader
        batches = iter(loader({workers}))
        next(batches)
        print("done")
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_what_one_rank_cannot_read_is_passed_over_after_a_resume():
    ahead, behind = ({"number": number} for number in (4, 3))
    assert loader().joint_state([ahead, behind]) == {"number": 3}


def test_some_of_a_split_are_its_first_or_lack_a_field_or_are_others_the_next_time():
    samples = NumberedSamples(1000)  # every other one lacks its double
    rows = spread_rows(samples, ["double"], 200)
    assert len(set(rows)) == 200
    assert rows == sorted(rows) == spread_rows(samples, ["double"], 200)
    assert all(row % 2 == 0 for row in rows)
    assert 60 <= sum(row < 500 for row in rows) <= 140, "of a split that lies class by class, from every class"
    assert spread_rows(samples, ["double"], 500) == spread_rows(samples, ["double"], 501) == list(range(0, 1000, 2))


def test_a_split_batch_keeps_its_rows_together_and_in_order():
    values = {"a": torch.arange(6), "b": torch.arange(12).reshape(6, 2)}
    present = {"a": torch.tensor([1, 0, 1, 0, 1, 0]).bool(), "b": torch.tensor([1, 1, 1, 0, 0, 0]).bool()}
    parts = Batch(values=values, present=present).split(3)
    assert [len(part) for part in parts] == [2, 2, 2]
    for name in values:
        assert torch.cat([part.values[name] for part in parts]).equal(values[name])
        assert torch.cat([part.present[name] for part in parts]).equal(present[name])


def test_a_batch_moves_to_a_device_whole():
    moved = Batch(values={"a": torch.ones(2)}, present={"a": torch.tensor([True, False])}).to(torch.device("meta"))
    assert moved.values["a"].device.type == moved.present["a"].device.type == "meta"


def test_a_missing_field_is_reported_with_those_that_there_are():
    with pytest.raises(UserError, match=r"modalities\.mask: the data set has no field 'mask'\n.*number, double, image"):
        bind(Number(), "mask", "mask", NumberedSamples().fields)


def test_a_field_of_the_wrong_kind_is_reported_with_the_modality():
    with pytest.raises(UserError, match=r"modalities\.a: a number is a scalar.*uint8 1x4x4"):
        bind(Number(), "a", "image", NumberedSamples().fields)


def test_binding_leaves_the_options_alone():
    bound = bind(Image(flip=True), "image", "image", NumberedSamples().fields)
    assert isinstance(bound, Source)
    assert bound.modality.flip
    assert bound.modality.spec == NumberedSamples().fields["image"]
