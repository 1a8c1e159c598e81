"""What the host learns of a training step, and when: neither it nor the device waits for the other."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtdiff_core.training.outcome import StepNotes, StepOutcome

aten = torch.ops.aten
# What makes the host wait for a GPU: values that it reads, and sizes that depend on values.
WAITING = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2}


class NobodyWaits(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in WAITING, f"the host waits for the device: {func}"
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"the host waits to hear how many rows a mask chooses: {func}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.keep.label=0.5", "train.accumulate=2"],
        ["diffusion.conditioning=observe", "train.precision=bf16"],
        ["space.aggregator=blocks", "train.gradient_clip=0.0"],
        ["modalities.label.curve=early", "data.keep.label=0.5", "train.impute_from=1"],
    ],
    ids=lambda settings: settings[0] if settings else "plain",
)
def test_the_host_waits_for_the_device_in_a_training_step(make_trainer, settings):
    trainer = make_trainer(*settings)
    batches = iter(trainer.loader)
    outcome = None
    for trainer.step in (1, 2, 3):
        batch = next(batches)
        with NobodyWaits():
            outcome = trainer.optimize(batch)
    with pytest.raises(AssertionError, match="the host waits"), NobodyWaits():
        bool(outcome.is_good)


def outcome(step, loss, gradient):
    return StepOutcome(step, {"image": torch.tensor(loss)}, {"weight": torch.tensor(gradient), "bias": torch.ones(3)})


def test_the_norm_is_not_that_of_all_gradients_together():
    found = outcome(1, 0.5, [3.0, -4.0]).scalars()
    assert found == {"gradient_norm": pytest.approx(math.sqrt(25 + 3)), "loss/image": 0.5}


@pytest.mark.parametrize(
    ("loss", "gradient", "said"),
    [
        (math.nan, [1.0], "modality 'image': its squared error of v is nan"),
        (-math.inf, [1.0], "modality 'image': its squared error of v is -inf"),
        (0.5, [math.nan], "the gradient of weight is not finite"),
        (0.5, [2e38, 2e38], "the gradient of weight is not finite"),  # its norm overflows
        (0.5, [1.0], None),
    ],
)
def test_what_is_not_finite_is_not_named(loss, gradient, said):
    found = outcome(1, loss, gradient)
    assert found.fault("image") == said
    assert bool(found.is_good) == (said is None)


def test_a_loss_of_another_modality_goes_by_the_anchor_s_name():
    found = StepOutcome(1, {"image": torch.tensor(1.0), "label": torch.tensor(math.inf)}, {"weight": torch.ones(1)})
    assert found.fault("image") == "modality 'label': its negative log-likelihood is inf"


def test_the_host_hears_of_a_step_before_the_next_is_under_way_or_twice():
    notes = StepNotes(batch_size=4, anchor="image")
    assert notes.add(outcome(1, math.nan, [1.0])) is None
    assert notes.skipped == 0
    assert notes.add(outcome(2, 0.5, [1.0])) == 1
    assert (notes.step, notes.skipped, notes.skipped_in_a_row) == (1, 1, 1)
    assert notes.catch_up() == 2
    assert (notes.step, notes.skipped, notes.skipped_in_a_row) == (2, 1, 0)
    assert notes.catch_up() is None
    assert notes.fault == "modality 'image': its squared error of v is nan"


def test_notes_that_go_on_are_others():
    notes, again = StepNotes(4, "image"), StepNotes(4, "image")
    for step, loss in ((1, 1.0), (2, math.nan), (3, 2.0)):
        notes.add(outcome(step, loss, [1.0]))
    notes.catch_up()
    again.add(outcome(9, math.nan, [1.0]))  # under way when it goes back
    again.load_state_dict(notes.state_dict())
    assert again.catch_up() is None
    assert again.state_dict()["skipped"] == notes.skipped == 1
    assert again.meter.take()["gradient_norm"] == notes.meter.take()["gradient_norm"] == pytest.approx(2.0)
