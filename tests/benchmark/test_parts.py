"""The parts of a training step, by a clock that goes on only inside what the test slows down."""

import pytest

from mtdiff_core.benchmark.parts import PARTS, parts_of_step
from mtdiff_core.benchmark.subjects import TrainingStep


@pytest.fixture
def slowed(monkeypatch, clock):
    """Let every call of a method take so many seconds."""

    def slow(thing, name, seconds):
        original = getattr(thing, name)

        def slower(*args, **kwargs):
            clock.spend(seconds)
            return original(*args, **kwargs)

        monkeypatch.setattr(thing, name, slower)

    return slow


@pytest.mark.parametrize("accumulate", [1, 2])
def test_time_is_booked_under_another_part(open_tiny, slowed, clock, accumulate):
    trainer = open_tiny().trainer(accumulate=accumulate)
    step = TrainingStep(trainer, next(iter(trainer.loader)))
    model = trainer.model
    slowed(trainer.draws, "times", 1.0)
    slowed(model, "encode", 2.0)
    slowed(model.backbone, "forward", 4.0)
    slowed(model.decoder("label"), "forward", 8.0)
    slowed(model, "record", 16.0)
    slowed(trainer.optimizer, "zero_grad", 32.0)
    slowed(trainer.ema, "update_parameters", 64.0)
    slowed(trainer.model.encoder("image"), "forward", 128.0)
    model.velocity.conv.weight.register_hook(lambda _gradient: clock.spend(256.0))
    trainer.optimizer.register_step_pre_hook(lambda *_: clock.spend(512.0))
    found = parts_of_step(step, 3, lambda: None, clock=clock)
    parts = {
        "draws and levels": 33.0,
        "encode and aggregate": accumulate * 130.0,
        "backbone": accumulate * 4.0,
        "heads": accumulate * 8.0,
        "losses": 0.0,
        "backward": accumulate * 256.0,
        "clip and check": 16.0 + 512.0,
        "optimizer": 0.0,
        "moving average": 64.0,
    }
    assert tuple(parts) == PARTS
    assert {name: list(part.each) for name, part in found.items()} == {n: [x] * 3 for n, x in parts.items()}


def test_what_was_hung_on_a_trainer_stays_there(open_tiny):
    trainer = open_tiny().trainer()
    step = TrainingStep(trainer, next(iter(trainer.loader)))
    loss = trainer.loss
    parts_of_step(step, 1, lambda: None)
    assert trainer.loss == loss
    assert "record" not in vars(trainer.model)
    for module in trainer.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not trainer.optimizer._optimizer_step_pre_hooks
    assert not trainer.optimizer._optimizer_step_post_hooks
