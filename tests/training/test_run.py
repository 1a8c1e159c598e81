"""A run as a whole: what plugins are told and when, previews, and which weights samples are made with."""

import json
import logging

import attrs
import pytest
import safetensors.torch
import torch

from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.errors import InterruptedRunError, MissingSplitError, UserError
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.training import run as module
from mtdiff_core.training import run_sampling
from mtdiff_core.training.run import load_trained_model, run_recipe
from mtdiff_image import Digits

CPU = torch.device("cpu")


class Diary:
    """A lifecycle plugin that notes every call in its order."""

    def __init__(self):
        self.entries = []

    @hookimpl
    def mtdiff_run_started(self, run, step):
        assert run.directory.is_dir()
        self.entries.append(("started", step))

    @hookimpl
    def mtdiff_step_finished(self, step):
        self.entries.append(("step", step))

    @hookimpl
    def mtdiff_grid_drawn(self, step, grid):
        assert grid.is_file()
        self.entries.append(("grid", step))

    @hookimpl
    def mtdiff_checkpoint_saved(self, step, checkpoint):
        assert checkpoint.is_dir()
        self.entries.append(("saved", step))

    @hookimpl
    def mtdiff_run_finished(self, step):
        self.entries.append(("finished", step))


@pytest.fixture
def run_tiny(tiny, quiet_registry, tmp_path):
    """Run the tiny recipe with some keys set; gives what plugins were told."""

    def call(*overrides, folder="run", resume=False, progress=lambda *_: lambda _: None):
        diary, call.said = Diary(), []
        recipe = load_recipe(tiny, quiet_registry, overrides)
        with quiet_registry.registered(diary):
            try:
                run_recipe(recipe, quiet_registry, CPU, tmp_path / folder, resume, progress, say=call.said.append)
            finally:
                call.told = diary.entries
        return diary.entries

    return call


def test_plugins_are_told_of_the_start_first_and_of_the_end_last(run_tiny):
    told = run_tiny("train.grid_every=3")
    saved = told.index(("saved", 2))  # some time after step 2, for it is written meanwhile; but before any sampling
    assert told.index(("step", 2)) < saved < told.index(("grid", 3))
    assert told[:saved] + told[saved + 1 :] == [
        ("started", 0), ("step", 1), ("step", 2), ("step", 3), ("grid", 3), ("step", 4), ("saved", 4),
        ("grid", 4), ("finished", 4),
    ]  # fmt: skip


def test_a_resumed_run_is_told_to_start_after_the_steps_it_has(run_tiny):
    run_tiny()
    assert run_tiny(resume=True) == [("started", 4), ("grid", 4), ("finished", 4)]


def test_ctrl_c_while_sampling_says_that_training_is_saved_and_plugins_hear_of_the_end(run_tiny):
    def progress(title, steps):
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="stopped while sampling; training is finished and saved"):
        run_tiny(progress=progress)
    assert run_tiny.told[-2:] == [("saved", 4), ("finished", 4)]


@pytest.mark.parametrize("kind", [ValueError, UserError])
def test_who_mends_what_failed_while_sampling_trains_again(run_tiny, kind):
    def progress(title, steps):
        raise kind("describe failed")

    with pytest.raises(kind, match="describe failed") as found:
        run_tiny(progress=progress)
    told = [str(found.value), *getattr(found.value, "__notes__", ())]
    assert "training is finished and saved" in " ".join(told)
    assert "--resume" in " ".join(told)
    assert run_tiny(resume=True) == [("started", 4), ("grid", 4), ("finished", 4)]


class Refusing:
    """It refuses at one moment, and hears of others."""

    def __init__(self, moment):
        self.moment, self.heard = moment, []

    def hear(self, moment):
        self.heard.append(moment)
        if moment == self.moment:
            raise UserError(f"no room at its {moment}")

    @hookimpl
    def mtdiff_run_started(self):
        self.hear("start")

    @hookimpl
    def mtdiff_run_finished(self):
        self.hear("end")


@pytest.mark.parametrize("moment", ["start", "end"])
def test_where_a_plugin_refuses_others_do_not_hear_of_the_end(run_tiny, quiet_registry, moment):
    refusing = Refusing(moment)
    with quiet_registry.registered(refusing), pytest.raises(UserError, match=f"no room at its {moment}"):
        run_tiny()
    assert refusing.heard == ["start", "end"]
    assert run_tiny.told[0] == ("started", 0)
    assert run_tiny.told[-1] == ("finished", 0 if moment == "start" else 4)


def test_what_a_plugin_says_of_the_end_takes_the_place_of_why_it_ended(run_tiny, quiet_registry, caplog):
    def progress(title, steps):
        raise KeyboardInterrupt

    with quiet_registry.registered(Refusing("end")), pytest.raises(InterruptedRunError, match="stopped while sampling"):
        run_tiny(progress=progress)
    assert "no room at its end" in caplog.text


def test_how_much_there_is_to_train_on_and_what_comes_after_is_not_said(run_tiny):
    run_tiny()
    assert run_tiny.said == [
        "1,500 training samples, 297 held out",
        "training is done; drawing up to 4 samples in each of 3 directions",
    ]


def test_samples_of_a_split_are_said_to_be_held_out_where_there_is_one_alone(run_tiny, monkeypatch):
    real = Digits.open

    def without_test(self, split):
        if split == "test":
            raise MissingSplitError("there is no test split")
        return real(self, split)

    monkeypatch.setattr(Digits, "open", without_test)
    run_tiny()
    assert run_tiny.said[0] == "1,500 training samples, none held out"


def test_a_small_split_is_given_again_and_again(run_tiny, quiet_registry, monkeypatch, tmp_path):
    real = Digits.open

    def small(self, split):
        samples = real(self, split)
        return TensorSamples(samples.fields, {name: x[:3] for name, x in samples._tensors.items()})

    monkeypatch.setattr(Digits, "open", small)
    run_tiny("data.batch_size=2")
    with safetensors.safe_open(tmp_path / "run" / "samples" / "samples.safetensors", "pt") as file:
        about = json.loads(file.metadata()["mtdiff"])["directions"]
    counts = {one["direction"]: one["stop"] - one["start"] for one in about}
    assert counts == {"joint -> image + label": 4, "image -> label": 3, "label -> image": 3}


def test_plugins_hear_of_the_end_of_a_run_that_fails(run_tiny, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module.Trainer, "optimize", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_tiny()
    assert [what for what, _ in run_tiny.told] == ["started", "finished"]


def test_samples_that_are_all_alike_are_warned_of_early(run_tiny, monkeypatch, caplog):
    real = run_sampling.generate

    def all_alike(*arguments):
        part = real(*arguments)
        return attrs.evolve(part, values={name: x[:1].expand_as(x) for name, x in part.values.items()})

    with caplog.at_level(logging.WARNING):
        run_tiny("train.grid_every=2")
    assert not caplog.records
    monkeypatch.setattr(run_sampling, "generate", all_alike)
    with caplog.at_level(logging.WARNING):
        run_tiny("train.grid_every=2", folder="alike")
    assert "samples of 'image' are all alike after step 2" in caplog.text


def drawn_in(monkeypatch):
    """What is drawn from here on."""
    drawn, real = [], run_sampling.draw_grid
    monkeypatch.setattr(run_sampling, "draw_grid", lambda parts, *rest: (drawn.append(parts), real(parts, *rest)))
    return drawn


class Unlabelled:
    """A split whose labels nobody has written down, but for some."""

    def __init__(self, samples, labelled=()):
        self.samples, self.fields, self.labelled = samples, samples.fields, labelled

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        sample = dict(self.samples[index])
        return sample if index in self.labelled else {"image": sample["image"]}


def test_what_is_known_is_wanted_of_a_held_out_split_that_lacks_it(run_tiny, monkeypatch):
    real = module.open_held_out_data
    monkeypatch.setattr(module, "open_held_out_data", lambda *arguments: Unlabelled(real(*arguments)))
    drawn = drawn_in(monkeypatch)
    run_tiny("train.grid_every=2", "sample.num=3")
    for parts in drawn:  # previews, and what the recipe asks for
        by_direction = {str(part.direction): part for part in parts}
        assert len(by_direction) == 3
        assert not by_direction["image -> label"].truth.present["label"].any(), "no held-out picture has one"
        assert by_direction["label -> image"].truth.present["image"].all(), "as training samples have them"


def test_a_direction_that_no_sample_knows_the_start_of_ends_the_run(run_tiny, monkeypatch, caplog):
    opened, held_out = module.open_training_data, module.open_held_out_data
    monkeypatch.setattr(module, "open_training_data", lambda *arguments: Unlabelled(opened(*arguments)))
    monkeypatch.setattr(module, "open_held_out_data", lambda *arguments: Unlabelled(held_out(*arguments)))
    drawn = drawn_in(monkeypatch)
    run_tiny()
    assert [str(part.direction) for part in drawn[-1]] == ["joint -> image + label", "image -> label"]
    assert "no sample has label: label -> image is not drawn" in caplog.messages


def test_samples_that_lack_nothing_are_passed_over(run_tiny, monkeypatch):
    real, labelled = module.open_held_out_data, (5, 200)
    monkeypatch.setattr(module, "open_held_out_data", lambda *arguments: Unlabelled(real(*arguments), labelled))
    drawn = drawn_in(monkeypatch)
    run_tiny("sample.num=4")
    _, given_image, given_label = drawn[-1]
    assert given_image.truth.present["label"].sum() == 2, "the two that show the truth, and two others"
    assert len(given_image) == 4
    assert len(given_label) == 2
    assert given_label.truth.present["image"].all()


def test_the_grid_of_a_run_shows_another_truth_than_the_samples_that_are_given(run_tiny, monkeypatch):
    drawn = drawn_in(monkeypatch)
    run_tiny("train.grid_every=4")
    for parts in drawn:  # the preview, and what the recipe asks for
        by_direction = {str(part.direction): part for part in parts}
        given_image, given_label = by_direction["image -> label"], by_direction["label -> image"]
        assert by_direction["joint -> image + label"].truth is None
        assert list(given_image.truth.values) == ["label"]
        assert list(given_label.truth.values) == ["image"]
        # Both start from the same samples: what one is given is what the other should have made.
        assert given_image.truth.values["label"].equal(given_label.values["label"])
        assert given_label.truth.values["image"].equal(given_image.values["image"])
        assert all(has.all() for part in (given_image, given_label) for has in part.truth.present.values())


def test_samples_are_made_with_the_averaged_weights_and_not_the_raw_ones(run_tiny, quiet_registry, tmp_path):
    run_tiny()
    folder = tmp_path / "run" / "checkpoints" / "step-4"
    average, raw = (safetensors.torch.load_file(folder / f"{part}.safetensors") for part in ("ema", "model"))
    loaded = load_trained_model(tmp_path / "run", quiet_registry, CPU).experiment.model.state_dict()
    assert all(loaded[name].equal(average[name]) for name in loaded)
    assert not all(loaded[name].equal(raw[name]) for name in loaded)


def test_a_trained_model_can_be_used_without_its_data(run_tiny, quiet_registry, tmp_path, monkeypatch):
    run_tiny()
    digits = quiet_registry.get("dataset", "digits").cls
    monkeypatch.setattr(digits, "open", lambda *_: pytest.fail("the data was opened"))
    assert load_trained_model(tmp_path / "run", quiet_registry, CPU).step == 4
