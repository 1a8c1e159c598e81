"""Derived fields: read in place of the raw one, present where it is, in every split."""

import pytest
import torch

from mtdiff_core import FieldSpec, UserError, Workshop, component
from mtdiff_core.data.batches import bind, prepare_batch
from mtdiff_core.data.derived import with_derived
from mtdiff_core.data.loading import training_loader
from mtdiff_core.randomness import generator
from tests.data.test_loading import Number, NumberedSamples

WORKSHOP = Workshop(torch.device("cpu"), seed=0)


@component
class Pair(Number):
    """Reads a number and a learnt offset in place of the number: (number, offset), as float."""

    def fit(self, samples, field, workshop):
        return {"offset": torch.tensor(100.0)}

    def derive(self, samples, field, workshop):
        numbers = torch.tensor([float(samples[i].get(field, torch.tensor(-7))) for i in range(len(samples))])
        return torch.stack([numbers, self.state["offset"].expand(len(numbers))], dim=1)

    def prepare(self, values, generator):
        return values


@component
class Picky(Number):
    """Cannot derive anything."""

    def derive(self, samples, field, workshop):
        raise UserError("not from this split")


def derived(field="double", cls=Pair):
    samples = NumberedSamples()
    state = cls().fit(samples, field, WORKSHOP)
    sources = {
        "number": bind(Number(), "number", "number", samples.fields),
        "derived": bind(cls(), "derived", field, samples.fields, state),
    }
    return with_derived(samples, sources, WORKSHOP)


@component
class Short(Pair):
    """Leaves samples out that lack what it reads."""

    def derive(self, samples, field, workshop):
        return super().derive(samples, field, workshop)[::2]


def test_rows_are_derived_that_belong_to_no_sample_or_to_another():
    with pytest.raises(UserError, match=r"^modalities.derived: class .*Short: derive must give .* each of 10 samples"):
        derived(cls=Short)


def test_the_raw_field_is_read_in_place_of_the_derived_one():
    samples, sources = derived("number")
    batch = prepare_batch([samples[3], samples[5]], sources, generator(0))
    assert batch.values["derived"].tolist() == [[3, 100], [5, 100]]
    assert batch.values["number"].tolist() == [3, 5]


def test_a_sample_that_lacks_the_raw_field_has_the_derived_one():
    samples, sources = derived("double")
    batch = prepare_batch([samples[4], samples[5]], sources, generator(0))
    assert batch.present["derived"].tolist() == [True, False]
    assert batch.values["derived"].tolist() == [[8, 100], [0, 0]]


def test_a_batch_in_which_every_sample_lacks_it_has_another_shape():
    samples, sources = derived("double")
    batch = prepare_batch([samples[1], samples[3]], sources, generator(0))
    assert batch.values["derived"].shape == (2, 2)
    assert batch.values["derived"].dtype == torch.float32


def test_the_loader_does_not_see_it():
    samples, sources = derived("double")
    batch = next(iter(training_loader(samples, sources, 10, 0, workers=0)))
    present = batch.present["derived"]
    assert present.sum() == 5
    assert batch.values["derived"][present][:, 0].equal(2.0 * batch.values["number"][present])


def test_a_split_from_which_nothing_is_derived_is_wrapped():
    samples = NumberedSamples()
    sources = {"number": bind(Number(), "number", "number", samples.fields)}
    same, read = with_derived(samples, sources, WORKSHOP)
    assert same is samples
    assert read == sources


def test_the_derived_field_takes_the_place_of_one_of_the_data_set_s():
    samples, sources = derived("number")
    assert samples.fields.items() > NumberedSamples().fields.items()
    assert samples.fields[sources["derived"].field] == FieldSpec(shape=(2,), dtype="float32")


def test_a_failure_does_not_name_the_modality():
    with pytest.raises(UserError, match=r"modalities\.derived: not from this split"):
        derived(cls=Picky)


def test_binding_forgets_what_was_learnt():
    spec = NumberedSamples().fields["number"]
    assert Pair().bind(spec, {"offset": torch.tensor(1.0)}).state["offset"] == 1
    assert Pair().bind(spec).state == {}
