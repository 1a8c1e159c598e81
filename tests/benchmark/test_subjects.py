"""What is timed is the project's own step, and the same network without anything around it."""

import pytest
import torch

from mtdiff_core.benchmark.subjects import SAMPLING_STEPS, BareNetwork, SamplingRun, TrainingStep
from mtdiff_core.training.trainer import Trainer


@pytest.fixture
def trainer(open_tiny):
    return open_tiny().trainer()


def calls_of(module, run):
    """How often a module is called meanwhile, and in which mode."""
    modes = []
    handle = module.register_forward_hook(lambda module, *_: modes.append(module.training))
    run()
    handle.remove()
    return modes


def test_a_training_step_is_something_else_than_the_trainer_s(trainer, monkeypatch):
    batch, seen = next(iter(trainer.loader)), []
    optimize = Trainer.optimize
    monkeypatch.setattr(Trainer, "optimize", lambda self, batch: seen.append(batch) or optimize(self, batch))
    step = TrainingStep(trainer, batch)
    assert calls_of(trainer.model.backbone, step) == [True]
    assert seen == [batch]
    assert trainer.notes.skipped == 0


def test_the_bare_network_gives_another_answer_than_the_model(trainer):
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = next(iter(trainer.loader))
    answers = []
    handle = trainer.model.decoder("label").register_forward_hook(lambda *given: answers.append(given[1:]))
    bare = BareNetwork(trainer, batch)
    trainer.model.eval()  # dropout would draw anew
    bare.training_step()
    handle.remove()
    (((_, slot), distribution),) = answers
    with torch.no_grad():
        expected = trainer.model(bare.z_t, bare.level, bare.context)
    torch.testing.assert_close(distribution.logits, expected.distributions["label"].logits)
    torch.testing.assert_close(slot.z, bare.z_t)


def test_a_parameter_has_no_part_in_the_bare_training_step(trainer):
    bare = BareNetwork(trainer, next(iter(trainer.loader)))
    bare.training_step()
    assert [name for name, p in trainer.model.named_parameters() if p.grad is None] == []
    assert len(trainer.optimizer.state) == len(list(trainer.model.parameters()))


def test_sampling_and_its_bare_forward_passes_call_different_networks_or_not_as_often(trainer):
    batch, backbone = next(iter(trainer.loader)), trainer.ema.model.backbone
    bare, sampling = BareNetwork(trainer, batch), SamplingRun(trainer)
    assert calls_of(backbone, sampling) == calls_of(backbone, bare.sampling_steps) == [False] * SAMPLING_STEPS
    assert len(sampling().values["label"]) == len(batch)


def test_timing_wears_the_weights_out(trainer):
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    step = TrainingStep(trainer, next(iter(trainer.loader)))
    bare = BareNetwork(trainer, step.batch)
    for _ in range(3):
        step()
        bare.training_step()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.equal(before[name]), name
    assert any(p.grad.abs().sum() > 0 for p in trainer.model.parameters())


def test_bf16_is_left_out_of_either_training_step(open_tiny):
    trainer = open_tiny("train.precision=bf16").trainer()
    dtypes = []
    trainer.model.velocity.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    batch = next(iter(trainer.loader))
    TrainingStep(trainer, batch)()
    BareNetwork(trainer, batch).training_step()
    assert dtypes == [torch.bfloat16] * 2


def test_trainers_share_weights_or_an_option_is_not_taken(open_tiny):
    opened = open_tiny()
    first, second = opened.trainer(), opened.trainer(accumulate=2)
    assert second.options.accumulate == 2
    assert first.model.velocity.conv.weight.data_ptr() != second.model.velocity.conv.weight.data_ptr()
