"""What training samples lack, filled in by the averaged model."""

import pytest
import torch

from mtdiff_core.data.batches import Batch
from mtdiff_core.errors import UserError
from mtdiff_core.training.imputation import check_imputable, imputable_rows, imputed, posteriors, sureness
from mtdiff_mask.segmentation_codec import ClassMap

T = 1000
HALF = ["data.keep.label=0.5", "modalities.label.curve=early"]
OBSERVE = ["data.keep.label=0.5", "modalities.label.curve=proportional", "diffusion.conditioning=observe"]


def sure_of(trainer, digit):
    """The averaged model, which takes every picture for this digit."""
    model = trainer.ema.model.eval()
    with torch.no_grad():
        model.decoder("label").layers[-1].bias[digit] += 100
    return model


def filled_in(model, batch, confidence=0.0):
    return imputed(model, batch, imputable_rows(model, batch.present), T, confidence)


def batch_of(trainer):
    batch = next(iter(trainer.loader))
    assert 0 < batch.present["label"].sum() < len(batch), "all samples are labelled, or none"
    return batch


@pytest.mark.parametrize("settings", [HALF, OBSERVE], ids=["replace", "observe"])
def test_what_is_missing_is_not_filled_in_or_what_is_there_is(make_trainer, settings):
    trainer = make_trainer(*settings)
    batch = batch_of(trainer)
    filled = filled_in(sure_of(trainer, 7), batch)
    has = batch.present["label"]
    assert filled.values["label"][has].equal(batch.values["label"][has])
    assert (filled.values["label"][~has] == 7).all()
    assert filled.present["label"].all()
    assert filled.values["image"].equal(batch.values["image"])
    assert not batch.present["label"].all(), "the batch itself was changed"


def test_a_label_is_filled_in_without_a_picture_to_read_it_from(make_trainer):
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    without = torch.arange(len(batch)) % 2 == 0
    batch = Batch(values=batch.values, present={**batch.present, "image": ~without})
    filled = filled_in(sure_of(trainer, 7), batch)
    assert filled.present["image"].equal(~without)
    assert filled.present["label"].equal(batch.present["label"] | ~without)


def test_an_unlikelier_class_is_taken(make_trainer):
    # A head that does not look at its features: what it says is the same for all.
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    model = trainer.ema.model.eval()
    with torch.no_grad():
        model.decoder("label").layers[-1].weight.zero_()
        model.decoder("label").layers[-1].bias.copy_(torch.tensor([30.0, 30.2] + [0.0] * 8))
    assert (filled_in(model, batch).values["label"][~batch.present["label"]] == 1).all()


@pytest.mark.parametrize(("confidence", "is_filled"), [(0.5, True), (0.6, False)])
def test_a_class_that_the_model_is_not_sure_of_is_filled_in(make_trainer, confidence, is_filled):
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    model = trainer.ema.model.eval()
    with torch.no_grad():  # two classes are left: the second has a probability of 1 / (1 + exp(-0.2)) = 0.55
        model.decoder("label").layers[-1].weight.zero_()
        model.decoder("label").layers[-1].bias.copy_(torch.tensor([30.0, 30.2] + [0.0] * 8))
    filled = filled_in(model, batch, confidence)
    assert filled.present["label"].all() == is_filled
    if not is_filled:
        assert filled.present["label"].equal(batch.present["label"])
        assert filled.values["label"].equal(batch.values["label"])


def test_a_map_is_as_sure_as_all_its_places_at_once_or_as_its_surest():
    probabilities = torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.0, 1.0]]])  # two samples, two places
    of_places = torch.distributions.Categorical(probabilities)
    assert sureness(torch.distributions.Independent(of_places, 1)).tolist() == pytest.approx([0.75, 0.9])
    maps = ClassMap(probabilities[:, :, None].log(), ignore=255)  # (B, H, W, K)
    assert sureness(maps).tolist() == pytest.approx([0.75, 0.9])
    assert sureness(torch.distributions.Categorical(probabilities[:, 0])).tolist() == pytest.approx([0.9, 0.8])


def test_a_batch_that_lacks_nothing_is_asked_for(make_trainer):
    trainer = make_trainer()
    batch = next(iter(trainer.loader))
    assert filled_in(trainer.ema.model, batch) is batch


@pytest.mark.parametrize(("confidence", "filled"), [(0.0, [False, False, True, True]), (1.0, [False] * 4)])
def test_training_fills_nothing_in_or_too_early_or_counts_it_as_data(make_trainer, confidence, filled):
    trainer = make_trainer(*HALF, "train.impute_from=3", f"train.impute_confidence={confidence}")
    seen = []
    real = trainer.loss

    def training_loss(values, present, *others):
        seen.append(bool(present["label"].all()))
        return real(values, present, *others)

    trainer.loss = training_loss
    labelled = []
    record = trainer.model.record

    def recorded(values, present, join):
        labelled.append(int(present["label"].sum()))
        record(values, present, join)

    trainer.model.record = recorded
    trainer.fit(lambda: False)
    assert seen == filled
    assert int(trainer.model.decoder("label").counts.sum()) == 10 + sum(labelled) < 10 + 4 * 16


def asked(model, batch):
    """``z_t``, level and context that the network is asked with."""
    calls = []
    hook = model.register_forward_pre_hook(lambda module, arguments: calls.append(arguments))
    filled_in(model.eval(), batch)
    hook.remove()
    (call,) = calls
    return call


def test_the_network_does_not_see_the_picture_where_it_was_trained_to(make_trainer):
    trainer = make_trainer(*HALF)
    batch = batch_of(trainer)
    rows = ~batch.present["label"]
    z_t, level, context = asked(trainer.ema.model, batch)
    torch.testing.assert_close(z_t, batch.values["image"][rows], atol=0.05, rtol=0)
    assert level.sigma.max() < 0.02
    assert not context.flags.any()


def test_the_network_is_not_told_the_picture_or_more_than_that(make_trainer):
    trainer = make_trainer(*OBSERVE)
    batch = batch_of(trainer)
    rows = ~batch.present["label"]
    _, level, context = asked(trainer.ema.model, batch)
    assert level.alpha.max() < 0.01
    assert context.observed[:, :1].equal(batch.values["image"][rows])
    assert context.flags[:, 2:].equal(torch.tensor([[1.0, 0.0]]).expand(int(rows.sum()), 2))  # known: image, label


def test_what_is_filled_in_comes_from_the_weights_of_this_step(make_trainer):
    trainer = make_trainer(*HALF, "train.impute_from=1", "train.steps=1")
    sure_of(trainer, 7)
    with torch.no_grad():
        trainer.model.decoder("label").layers[-1].bias[3] += 100
    real, seen = trainer.loss, []

    def training_loss(values, *others):
        seen.append(values["label"])
        return real(values, *others)

    trainer.loss = training_loss
    batch = batch_of(trainer)
    trainer.step = 1
    trainer.model.train()
    trainer.optimize(batch)
    assert (seen[0][~batch.present["label"]] == 7).all()


def test_a_picture_alone_lacks_something(make_trainer):
    batch = next(iter(make_trainer().loader)).only(["image"])
    alone = make_trainer(folder="other").model
    alone.decoders = torch.nn.ModuleDict()
    assert filled_in(alone, batch) is batch


def options(trainer):
    return trainer.experiment.recipe.diffusion


def test_a_code_that_never_fades_is_no_hindrance(make_trainer):
    trainer = make_trainer("modalities.label.curve=proportional")
    with pytest.raises(
        UserError, match=r"train\.impute_from: what is missing cannot be filled in: z_t carries 'label'"
    ):
        check_imputable(trainer.model, options(trainer))


@pytest.mark.parametrize("settings", [['diffusion.observe=["label"]'], ["diffusion.observe_share=0"]], ids=str)
def test_a_network_that_is_never_told_the_anchor_is_asked_for_what_goes_with_it(make_trainer, settings):
    trainer = make_trainer(*OBSERVE, *settings)
    with pytest.raises(UserError, match="the network is never told 'image'"):
        check_imputable(trainer.model, options(trainer))


@pytest.mark.parametrize(
    "settings", [HALF, OBSERVE, ["modalities.label.curve=fading"], ["modalities.label.curve=none"]], ids=str
)
def test_a_code_that_fades_or_a_network_that_is_told_is_refused(make_trainer, settings):
    trainer = make_trainer(*settings)
    check_imputable(trainer.model, options(trainer))


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        (HALF, "image", {"label"}),
        (HALF, "label", set()),  # the network has never seen a picture's place left to noise at the lowest noise
        (["modalities.label.curve=proportional"], "image", set()),  # z_t would hold the label itself
        (OBSERVE, "image", {"label"}),
    ],
)
def test_a_label_is_read_from_its_own_code_or_not_from_the_picture(make_trainer, settings, given, told):
    trainer = make_trainer(*settings)
    batch = next(iter(trainer.loader))
    found = posteriors(sure_of(trainer, 7), {given: batch.values[given]}, T)
    assert set(found) == told
    for distribution in found.values():
        assert (distribution.mode == 7).all()
