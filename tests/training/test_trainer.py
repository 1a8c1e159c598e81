"""The training loop: its rates, its parts, its precision, and what it does with a step that is not finite."""

import logging
import math
from itertools import pairwise

import attrs
import pytest
import torch

from mtdiff_core.diffusion.forward import NoiseLevel
from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.training import trainer as module
from mtdiff_core.training.checkpoint import find_checkpoint, optimizer_tensors

NO_DROPOUT = "modalities.label.dropout=0"


class Log:
    """A lifecycle plugin that keeps what it is told."""

    def __init__(self):
        self.lines, self.saved, self.grids, self.went_back = {}, [], [], []

    @hookimpl
    def mtdiff_step_finished(self, step, scalars):
        assert step not in self.lines, f"step {step} was logged twice"
        self.lines[step] = scalars

    @hookimpl
    def mtdiff_checkpoint_saved(self, step, checkpoint):
        assert checkpoint.name == f"step-{step}"
        self.saved.append(step)

    @hookimpl
    def mtdiff_run_went_back(self, step):
        self.went_back.append(step)
        self.lines = {logged: line for logged, line in self.lines.items() if logged <= step}

    @hookimpl
    def mtdiff_grid_drawn(self, step, grid):
        self.grids.append((step, grid))


def fit(trainer, stop_requested=lambda: False):
    """Train, and give what was logged."""
    log = Log()
    with trainer.registry.registered(log):
        trainer.fit(stop_requested)
    return log


def stop_after(trainer, step):
    """Train and stop. Without reference cycles (pytest.raises makes one), which would close workers seconds late."""
    answers = iter([False] * (step - 1) + [True])
    try:
        fit(trainer, lambda: next(answers))
    except InterruptedRunError:
        return
    pytest.fail("was not stopped")


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def learnt(model):
    """The weights alone: what heads count of the data counts in any step."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def batches_of(trainer):
    batches = iter(trainer.loader)
    while True:
        trainer.step += 1
        yield next(batches)


# Learning rate


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine_to_its_final_share(make_trainer):
    trainer = make_trainer(
        "train.steps=110", "train.warmup_steps=10", "train.learning_rate=0.5", "train.final_learning_rate=0.2"
    )
    rates = [trainer.options.learning_rate_at(step) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.05 * i for i in range(1, 11)])
    assert rates[59] == pytest.approx((0.5 + 0.1) / 2)  # half-way down
    assert rates[-1] == pytest.approx(0.5 * 0.2)
    assert max(rates) == rates[9] == 0.5
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))


def test_without_a_warm_up_the_first_step_has_almost_the_peak_rate(make_trainer):
    trainer = make_trainer("train.steps=1000", "train.warmup_steps=0", "train.learning_rate=1.0")
    assert 0.9999 < trainer.options.learning_rate_at(1) <= 1


def test_the_optimizer_steps_at_the_rate_that_is_logged(make_trainer):
    trainer = make_trainer("train.steps=5", "train.warmup_steps=2")
    log = fit(trainer)
    assert [log.lines[step]["learning_rate"] for step in log.lines] == [
        trainer.options.learning_rate_at(s) for s in range(1, 6)
    ]
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.options.learning_rate_at(5)


def test_a_learning_rate_of_zero_changes_nothing(make_trainer):
    trainer = make_trainer("train.learning_rate=0.0", "train.steps=2")
    before = learnt(trainer.model)
    fit(trainer)
    assert same(learnt(trainer.model), before)


# One step


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(make_trainer, parts):
    results = []
    for accumulate in (1, parts):
        trainer = make_trainer(NO_DROPOUT, f"train.accumulate={accumulate}", folder=f"in {accumulate}")
        batches = batches_of(trainer)
        scalars = [trainer.optimize(next(batches)).scalars() for _ in range(3)]
        results.append((scalars, weights(trainer.model)))
    (whole_scalars, whole), (part_scalars, in_parts) = results
    for one, other in zip(whole_scalars, part_scalars, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    for name in whole:
        torch.testing.assert_close(
            in_parts[name], whole[name], rtol=0, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_the_gradient_is_clipped_and_its_norm_logged_unclipped(make_trainer):
    trainer = make_trainer("train.gradient_clip=1e-3")
    scalars = trainer.optimize(next(batches_of(trainer))).scalars()
    clipped = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in trainer.model.parameters()]))
    assert scalars["gradient_norm"] > 1e-2
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_clip_of_zero_leaves_the_gradient_alone(make_trainer):
    trainer = make_trainer("train.gradient_clip=0.0")
    scalars = trainer.optimize(next(batches_of(trainer))).scalars()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in trainer.model.parameters()]))
    assert float(norm) == pytest.approx(scalars["gradient_norm"], rel=1e-4)


def spied_times(trainer, steps):
    """The times that the batches of some steps are trained at; under rectified flow, t is the noise level."""
    times, real = [], trainer.loss

    def spy(*arguments):
        (level,) = (argument for argument in arguments if isinstance(argument, NoiseLevel))
        times.append(level.sigma[:, 0, 0, 0].clone())
        return real(*arguments)

    trainer.loss = spy
    for _, batch in zip(range(steps), batches_of(trainer), strict=False):
        trainer.optimize(batch)
    return times


def test_the_times_of_every_batch_cover_the_whole_range_evenly(make_trainer):
    trainer = make_trainer("diffusion.schedule=rectified-flow", "diffusion.steps=1000")
    for times in spied_times(trainer, steps=5):
        strata = (times * 16 - 0.02).ceil().sort().values  # a 16th each, up to the grid's 1/1000
        assert strata.diff().max() <= 2, "a stretch of the range was left out"
        assert len(times.unique()) == len(times)
        assert (times > 0).all()
        assert (times <= 1.0001).all()


def test_no_two_batches_are_trained_at_the_same_times(make_trainer):
    trainer = make_trainer("diffusion.schedule=rectified-flow", "diffusion.steps=1000")
    assert len({tuple(times.sort().values.tolist()) for times in spied_times(trainer, steps=5)}) == 5


def test_training_times_lie_on_the_grid_that_was_asked_for(make_trainer):
    trainer = make_trainer("diffusion.schedule=rectified-flow", "diffusion.steps=4")
    seen = torch.cat(spied_times(trainer, steps=5))
    torch.testing.assert_close(seen.unique(), torch.tensor([0.25, 0.5, 0.75, 1]))


def test_too_few_of_a_batch_have_a_label_where_few_samples_do(make_trainer):
    counts = []
    for share in (0.0, 0.5):
        trainer = make_trainer("data.keep.label=0.1", f"data.complete_share={share}", folder=f"share-{share}")
        batches = iter(trainer.loader)
        counts.append(sum(int(next(batches).present["label"].sum()) for _ in range(20)))
    assert counts[0] < 20 * 16 * 0.2
    assert counts[1] >= 20 * 8


@pytest.mark.parametrize("parts", [1, 4])
def test_heads_do_not_take_note_of_each_batch_once(make_trainer, parts):
    trainer = make_trainer("data.keep.label=0.5", f"train.accumulate={parts}")
    batch, noted = next(batches_of(trainer)), []
    trainer.model.decoder("label").record = lambda *arguments: noted.append(arguments)
    trainer.optimize(batch)
    ((values, present),) = noted
    assert values.equal(batch.values["label"])
    assert present.equal(batch.present["label"])
    assert not present.all()


def test_bf16_trains_float32_weights_and_is_really_used(make_trainer):
    steps = []
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(NO_DROPOUT, f"train.precision={precision}", "train.steps=6", folder=precision)
        before = weights(trainer.model)
        log = fit(trainer)
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
        assert not same(weights(trainer.model), before)
        assert all(math.isfinite(value) for line in log.lines.values() for value in line.values())
        steps.append(log.lines)
    full, half = steps
    for name in ("loss/image", "loss/label"):
        assert half[6][name] == pytest.approx(full[6][name], rel=0.05)
    assert any(half[s][name] != full[s][name] for s in full for name in ("loss/image", "loss/label"))


# What is logged and kept


def test_losses_rate_speed_and_skips_are_logged_at_every_step(make_trainer):
    log = fit(make_trainer())
    assert list(log.lines) == [1, 2, 3, 4]
    names = {"loss/image", "loss/label", "gradient_norm", "learning_rate", "images_per_second", "skipped_steps"}
    assert all(line.keys() == names for line in log.lines.values())


def test_a_logged_line_is_the_mean_of_the_steps_since_the_last(make_trainer):
    each = fit(make_trainer("train.steps=7", folder="each")).lines
    some = fit(make_trainer("train.steps=7", "train.log_every=3", folder="some")).lines
    assert list(some) == [3, 6, 7]
    for step, window in ((3, (1, 2, 3)), (6, (4, 5, 6)), (7, (7,))):
        mean = sum(each[s]["loss/image"] for s in window) / len(window)
        assert some[step]["loss/image"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_line_of_the_log_differs_if_the_run_was_stopped_since_the_last(make_trainer, stop):
    settings = ("train.steps=7", "train.log_every=3", "train.checkpoint_every=5")
    whole = fit(make_trainer(*settings, folder="whole")).lines
    stop_after(make_trainer(*settings, folder="stopped"), stop)
    resumed = make_trainer(*settings, folder="stopped")
    resumed.load(find_checkpoint(resumed.directory.checkpoints))
    lines = fit(resumed).lines
    assert list(lines) == [step for step in (3, 6, 7) if step > stop]
    for step, line in lines.items():
        del line["images_per_second"], whole[step]["images_per_second"]
        assert line == whole[step]


def test_checkpoints_are_saved_when_asked_and_at_the_end_once(make_trainer):
    log = fit(make_trainer("train.steps=5", "train.checkpoint_every=2"))
    assert log.saved == [2, 4, 5]
    assert fit(make_trainer("train.steps=4", "train.checkpoint_every=2", folder="even")).saved == [2, 4]


def test_checkpoints_are_thinned_otherwise_than_the_recipe_says(make_trainer):
    settings = ("train.steps=10", "train.checkpoint_every=1", "train.keep_checkpoints=2", "train.keep_every=4")
    trainer = make_trainer(*settings)
    fit(trainer)
    assert {path.name for path in trainer.directory.checkpoints.glob("step-*")} == {
        "step-4",
        "step-8",
        "step-9",
        "step-10",
    }


def test_grids_are_drawn_early_and_at_intervals_from_the_averaged_model(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "EARLY_GRID", 1)
    drawn = []

    def draw(model, step):
        drawn.append((model, step))
        return tmp_path / "grid.png"

    trainer = make_trainer("train.steps=9", "train.grid_every=3", draw_grid=draw)
    log = fit(trainer)
    assert [step for _, step in drawn] == [1, 3, 6]  # the end has its own samples
    assert all(model is trainer.ema.model for model, _ in drawn)
    assert log.grids == [(step, tmp_path / "grid.png") for step in (1, 3, 6)]


def test_a_stop_is_heeded_after_the_step_and_leaves_a_checkpoint(make_trainer):
    trainer = make_trainer("train.steps=50", "train.checkpoint_every=50")
    with pytest.raises(InterruptedRunError, match="stopped after step 3; the checkpoint is saved"):
        fit(trainer, lambda: trainer.step == 3)
    assert find_checkpoint(trainer.directory.checkpoints).step == 3


COMPILED = pytest.param(["train.compile=true"], [3], marks=pytest.mark.crash, id="compiled")
THREE_BATCHES_AN_EPOCH = "data.batch_size=500"


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        pytest.param([], [3], id="no worker"),
        pytest.param(["data.workers=2"], [3], id="two workers"),
        pytest.param(["data.workers=2"], [2, 4, 5], id="again and again"),
        pytest.param([THREE_BATCHES_AN_EPOCH], [3], id="at an epoch's end"),
        pytest.param([THREE_BATCHES_AN_EPOCH, "data.workers=2"], [3], id="at an epoch's end, two workers"),
        pytest.param(["train.precision=bf16"], [2, 4], id="bf16"),
        pytest.param(["train.accumulate=2"], [3], id="in parts"),
        COMPILED,
    ],
)
def test_a_trainer_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(make_trainer, settings, stops):
    settings = (
        "train.steps=6", "train.checkpoint_every=3", "modalities.image.flip=true", "data.keep.label=0.5",
        "train.impute_from=2", *settings,
    )  # fmt: skip
    whole, resumed = make_trainer(*settings, folder="whole"), make_trainer(*settings, folder="stopped")
    fit(whole)
    for before, stop in zip([0, *stops], stops, strict=False):
        stop_after(resumed, stop - before)
        resumed = make_trainer(*settings, folder="stopped")
        resumed.load(find_checkpoint(resumed.directory.checkpoints))
        assert resumed.step == stop
    log = fit(resumed)
    assert list(log.lines) == list(range(stops[-1] + 1, 7))
    assert same(weights(resumed.model), weights(whole.model))
    assert same(weights(resumed.ema.model), weights(whole.ema.model))
    assert same(resumed.averages.state_dict(), whole.averages.state_dict())
    assert same(optimizer_tensors(resumed.optimizer, resumed.model), optimizer_tensors(whole.optimizer, whole.model))


# Steps that are not finite


def poison(trainer, is_bad, what):
    """Spoil the loss of some steps: the label's term, or only the gradient."""
    real = trainer.loss

    def training_loss(*arguments):
        total, terms = real(*arguments)
        if not is_bad(trainer.step):
            return total, terms
        if what == "gradient":
            return total * math.inf, terms
        term = terms[what] * math.nan
        return total + term, {**terms, what: term}

    trainer.loss = training_loss


@pytest.mark.parametrize("what", ["image", "label", "gradient"])
def test_a_step_that_is_not_finite_leaves_weights_average_and_optimizer_as_they_were(make_trainer, what):
    trainer = make_trainer("train.steps=5")
    batches = batches_of(trainer)
    trainer.optimize(next(batches))
    before = learnt(trainer.model), learnt(trainer.ema.model), optimizer_tensors(trainer.optimizer, trainer.model)
    before = tuple({name: tensor.clone() for name, tensor in part.items()} for part in before)
    poison(trainer, lambda step: step == 2, what)
    trainer.notes.add(trainer.optimize(next(batches)))
    trainer.notes.catch_up()
    assert same(learnt(trainer.model), before[0])
    assert same(learnt(trainer.ema.model), before[1])
    assert same(optimizer_tensors(trainer.optimizer, trainer.model), before[2])
    assert int(trainer.ema.n_averaged) == 1
    assert trainer.notes.skipped == 1
    trainer.optimize(next(batches))
    assert not same(learnt(trainer.model), before[0]), "training did not go on"


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("image", "modality 'image': its squared error of v is nan"),
        ("label", "modality 'label': its negative log-likelihood is nan"),
        ("gradient", "the gradient of backbone"),
    ],
)
def test_a_step_left_out_is_reported_with_its_cause(make_trainer, caplog, what, named):
    trainer = make_trainer("train.steps=4")
    poison(trainer, lambda step: step == 3, what)
    with caplog.at_level(logging.WARNING):
        log = fit(trainer)
    (record,) = caplog.records
    assert record.getMessage().startswith("step 3 left out: ")
    assert named in record.getMessage()
    assert [log.lines[step]["skipped_steps"] for step in range(1, 5)] == [0, 0, 1, 1]


def test_twenty_bad_steps_in_a_row_twice_stop_the_run_and_the_last_good_checkpoint_is_kept(make_trainer, caplog):
    trainer = make_trainer("train.steps=60", "train.checkpoint_every=2")
    poison(trainer, lambda step: step >= 6, "label")
    with pytest.raises(
        UserError, match=r"20 steps in a row were not finite, the last at step 25: modality 'label'"
    ) as e:
        fit(trainer)
    assert "the checkpoint of step 4 is kept" in str(e.value)
    assert "train.learning_rate" in str(e.value)
    assert sum("going back to step 4" in said for said in caplog.messages) == 1
    assert find_checkpoint(trainer.directory.checkpoints).step == 4


def test_after_a_streak_of_bad_batches_the_run_goes_back_and_on_with_those_that_follow(make_trainer):
    settings = ("train.steps=8", "train.checkpoint_every=2", "train.max_skipped=3")
    trainer = make_trainer(*settings, folder="goes back")
    given = []
    optimize = trainer.optimize

    def watched(batch):
        given.append((trainer.step, batch))
        return optimize(batch)

    trainer.optimize = watched
    poison(trainer, lambda step: 4 < len(given) <= 7, "label")  # the fifth batch to the seventh
    log = fit(trainer)
    # That the seventh was bad is known when the eighth has been asked for.
    assert [step for step, _ in given] == [1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    assert log.went_back == [4]
    assert sorted(log.lines) == list(range(1, 9))
    assert trainer.notes.skipped == 3
    # The same as if the batches from the fifth to the eighth had never been there.
    plain = make_trainer(*settings, folder="plain")
    for step, (_, batch) in enumerate([*given[:4], *given[8:]], start=1):
        plain.step = step
        plain.model.train()
        plain.optimize(batch)
    assert same(learnt(trainer.model), learnt(plain.model))
    assert same(learnt(trainer.ema.model), learnt(plain.ema.model))


def test_a_run_that_went_back_and_is_interrupted_ends_elsewhere(make_trainer):
    settings = ("train.steps=8", "train.checkpoint_every=2", "train.max_skipped=2")
    whole, stopped, resumed = (make_trainer(*settings, folder=name) for name in ("whole", "stopped", "stopped"))
    for trainer in (whole, stopped):
        poison(trainer, lambda step, trainer=trainer: step >= 5 and trainer.went_back_to < 0, "image")
    fit(whole)
    assert whole.went_back_to == 4
    stop_after(stopped, 8)  # two steps more than its number says
    assert stopped.step == 6
    assert resumed.went_back_to < 0
    resumed.load(find_checkpoint(resumed.directory.checkpoints))
    fit(resumed)
    assert same(weights(resumed.model), weights(whole.model))
    assert same(weights(resumed.ema.model), weights(whole.ema.model))


@pytest.mark.parametrize("stop", [3, 5, 6])
def test_a_run_that_is_stopped_before_or_amid_bad_steps_goes_back_elsewhere(make_trainer, stop):
    settings = ("train.steps=8", "train.checkpoint_every=2", "train.keep_checkpoints=1", "train.max_skipped=3")

    def bad_trainer(folder):
        trainer = make_trainer(*settings, folder=folder)
        poison(trainer, lambda step: step >= 5 and trainer.went_back_to < 0, "image")
        return trainer

    whole, stopped, resumed = map(bad_trainer, ("whole", "stopped", "stopped"))
    fit(whole)
    assert whole.went_back_to == 4
    stop_after(stopped, stop)
    resumed.load(find_checkpoint(resumed.directory.checkpoints))
    assert resumed.step == stop
    fit(resumed)
    assert resumed.notes.skipped == whole.notes.skipped == 3
    assert same(weights(resumed.model), weights(whole.model))
    assert same(weights(resumed.ema.model), weights(whole.ema.model))


def test_the_noise_of_an_anchor_that_does_not_come_first_is_other_noise(make_trainer):
    trainer = make_trainer("data.batch_size=4")
    alone = trainer.draws.noise(7)
    layout = trainer.model.process.layout
    channels, height, width = layout.space
    wider = attrs.evolve(layout, space=(channels + 3, height, width), slots={trainer.model.anchor: (2, 2 + channels)})
    trainer.model.process = attrs.evolve(trainer.model.process, layout=wider)
    noise = trainer.draws.noise(7)
    assert noise.shape == (4, channels + 3, height, width)
    assert noise[:, 2 : 2 + channels].equal(alone)
    rest = torch.cat([noise[:, :2], noise[:, 2 + channels :]], dim=1)
    assert len(rest.unique()) == rest.numel()


def test_a_run_that_is_bad_from_the_start_says_that_there_is_no_checkpoint(make_trainer):
    trainer = make_trainer("train.steps=60", "train.max_skipped=3")
    poison(trainer, lambda step: True, "image")
    with pytest.raises(UserError, match=r"3 steps in a row.*modality 'image'(.|\n)*no checkpoint was saved yet"):
        fit(trainer)
    assert find_checkpoint(trainer.directory.checkpoints) is None


def test_bad_steps_that_are_not_in_a_row_do_not_stop_the_run(make_trainer):
    trainer = make_trainer("train.steps=10", "train.max_skipped=2")
    poison(trainer, lambda step: step % 2 == 0, "label")
    fit(trainer)
    assert trainer.notes.skipped == 5
    assert int(trainer.ema.n_averaged) == 5


def test_the_number_of_skipped_steps_survives_a_resume(make_trainer):
    trainer = make_trainer("train.steps=4", folder="one")
    poison(trainer, lambda step: step == 2, "label")
    fit(trainer)
    again = make_trainer("train.steps=4", folder="one")
    again.load(find_checkpoint(again.directory.checkpoints))
    assert again.notes.skipped == 1
    assert int(again.ema.n_averaged) == 3
