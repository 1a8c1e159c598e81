"""What training samples lack, drawn from the averaged model."""

import pytest
import torch

from mtdiff_core.data.loading import Batch
from mtdiff_core.errors import UserError
from mtdiff_core.training.imputation import check_imputable, imputed

T = 1000
HALF = ["data.keep.label=0.5", "modalities.label.curve=early"]
OBSERVE = ["data.keep.label=0.5", "modalities.label.curve=proportional", "diffusion.conditioning=observe"]


def sure_of(trainer, digit):
    """The averaged model, which takes every picture for this digit."""
    model = trainer.ema.model.eval()
    with torch.no_grad():
        model.decoder("label").layers[-1].bias[digit] += 100
    return model


def batch_of(trainer):
    batch = next(iter(trainer.loader))
    assert 0 < batch.present["label"].sum() < len(batch), "all samples are labelled, or none"
    return batch


@pytest.mark.parametrize("settings", [HALF, OBSERVE], ids=["replace", "observe"])
def test_what_is_missing_is_not_drawn_or_what_is_there_is(make_trainer, settings):
    trainer = make_trainer(*settings)
    batch = batch_of(trainer)
    filled = imputed(sure_of(trainer, 7), batch, T)
    has = batch.present["label"]
    assert filled.values["label"][has].equal(batch.values["label"][has])
    assert (filled.values["label"][~has] == 7).all()
    assert filled.present["label"].all()
    assert filled.values["image"].equal(batch.values["image"])
    assert not batch.present["label"].all(), "the batch itself was changed"


def test_a_label_is_drawn_without_a_picture_to_draw_it_from(make_trainer):
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    without = torch.arange(len(batch)) % 2 == 0
    batch = Batch(values=batch.values, present={**batch.present, "image": ~without})
    filled = imputed(sure_of(trainer, 7), batch, T)
    assert filled.present["image"].equal(~without)
    assert filled.present["label"].equal(batch.present["label"] | ~without)


def test_draws_do_not_follow_the_model_s_own_distribution(make_trainer):
    # A head that does not look at its features: what it says is what it draws.
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    many = Batch(
        values={name: x.repeat_interleave(100, dim=0) for name, x in batch.values.items()},
        present={"image": torch.ones(1600, dtype=torch.bool), "label": torch.zeros(1600, dtype=torch.bool)},
    )
    model = trainer.ema.model.eval()
    with torch.no_grad():
        model.decoder("label").layers[-1].weight.zero_()
        model.decoder("label").layers[-1].bias.copy_(torch.tensor([30.0, 30.0] + [0.0] * 8))
    torch.manual_seed(0)
    labels = imputed(model, many, T).values["label"]
    assert (labels == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (labels == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_batch_that_lacks_nothing_is_asked_for(make_trainer):
    trainer = make_trainer()
    batch = next(iter(trainer.loader))
    assert imputed(trainer.ema.model, batch, T) is batch


def test_training_takes_no_draws_or_too_early_or_counts_them_as_data(make_trainer):
    trainer = make_trainer(*HALF, "train.impute_from=3")
    seen = []
    real = trainer.training_loss

    def training_loss(values, present, *others):
        seen.append(bool(present["label"].all()))
        return real(values, present, *others)

    trainer.training_loss = training_loss
    labelled = []
    record = trainer.model.record

    def recorded(values, present):
        labelled.append(int(present["label"].sum()))
        record(values, present)

    trainer.model.record = recorded
    trainer.fit(lambda: False)
    assert seen == [False, False, True, True]
    assert int(trainer.model.decoder("label").counts.sum()) == 10 + sum(labelled) < 10 + 4 * 16


def test_a_code_that_never_fades_is_no_hindrance(make_trainer):
    trainer = make_trainer("modalities.label.curve=proportional")
    with pytest.raises(UserError, match=r"train\.impute_from: what is missing cannot be drawn: z_t carries 'label'"):
        check_imputable(trainer.model, T)


@pytest.mark.parametrize(
    "settings", [HALF, OBSERVE, ["modalities.label.curve=fading"], ["modalities.label.curve=none"]], ids=str
)
def test_a_code_that_fades_or_a_network_that_is_told_is_refused(make_trainer, settings):
    check_imputable(make_trainer(*settings).model, T)
