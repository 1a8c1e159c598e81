"""mtdiff compare: two small recipes, compared by running the command."""

import json
import shutil
import signal

import pytest
from safetensors.torch import load_file

from mtdiff_core import hookimpl
from mtdiff_core.cli.console import Display

SETTINGS = [
    "data.size=8", "train.steps=4", "train.warmup_steps=1", "train.log_every=1", "sample.steps=2", "sample.num=2",
    "backbone.channels=8", "backbone.multipliers=[1,2]", "backbone.attention=[]", "backbone.head_channels=8",
]  # fmt: skip
SMALL = [argument for setting in SETTINGS for argument in ("--set", setting)]
JUDGED = ["--at", "0.5,1", "--num", 16, "--metric", "nearest_training"]


@pytest.fixture
def compare(mtdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))

    def command(*arguments, seeds="0,1"):
        return mtdiff("compare", *SMALL, *JUDGED, *arguments, "--seeds", seeds, "--out", tmp_path / "out")

    return command


def test_a_recipe_or_a_seed_or_a_checkpoint_is_not_compared(compare, tmp_path):
    code, output, errors = compare("image", "image+label")
    assert code == 0, errors
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["reference"] == "image"
    assert found["steps"] == {"image": [2, 4], "image+label": [2, 4]}
    (figure,) = found["figures"]
    assert (figure["direction"], figure["name"], figure["of"]) == ("joint", "nearest_training", ["image"])
    for values in figure["values"].values():
        assert [len(value["each"]) for value in values] == [2, 2]
        assert all(value["interval"][0] <= value["mean"] <= value["interval"][1] for value in values)
    (pairs,) = figure["paired"].values()
    last = figure["values"]
    assert pairs[-1]["mean"] == pytest.approx(last["image+label"][-1]["mean"] - last["image"][-1]["mean"])
    assert found["cost"]["image"]["ratio"]["median"] == 1
    assert found["cost"]["image+label"]["seconds_per_step"]["median"] > 0
    assert "image+label: " in output
    assert "image+label" in output
    assert errors.count("step 4/4") == 4
    assert "nearest_training of image" in (tmp_path / "out" / "comparison.html").read_text()


def test_a_finished_run_is_trained_again_or_a_new_seed_is_not(compare, tmp_path):
    assert compare("image", "image+label", seeds="0")[0] == 0
    assert not (tmp_path / "out" / "runs" / "image-0" / "checkpoints" / "step-1").exists()
    checkpoint = tmp_path / "out" / "runs" / "image-0" / "checkpoints" / "step-4" / "ema.safetensors"
    judged = tmp_path / "out" / "runs" / "image-0" / "judged" / "step-4.json"
    before = (checkpoint.stat().st_mtime_ns, judged.stat().st_mtime_ns)
    code, _, errors = compare("image", "image+label", seeds="0,1")
    assert code == 0, errors
    assert (checkpoint.stat().st_mtime_ns, judged.stat().st_mtime_ns) == before
    assert (tmp_path / "out" / "runs" / "image-1" / "judged" / "step-4.json").exists()


def figures_of(folder):
    """What a comparison found, without what depends on how fast the machine was."""
    found = json.loads((folder / "comparison.json").read_text())
    timed = {"at_equal_time"}
    return [{key: value for key, value in figure.items() if key not in timed} for figure in found["figures"]]


def test_a_run_that_was_stopped_is_trained_from_its_start_or_to_another_end(compare, tmp_path, monkeypatch):
    shown = Display.mtdiff_step_finished

    @hookimpl
    def stopping(self, run, step, scalars):
        shown(self, run, step, scalars)
        if (run.directory.name, step) == ("image+label-0", 2):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "mtdiff_step_finished", stopping)
        code, _, errors = compare("image", "image+label", seeds="0")
    assert code == 130
    assert "interrupted: stopped after step 2; the checkpoint is saved\n  the same command goes on" in errors
    assert "--resume" not in errors
    assert not (tmp_path / "out" / "comparison.json").exists()
    first = tmp_path / "out" / "runs" / "image-0" / "metrics.jsonl"
    before = first.stat().st_mtime_ns

    code, _, errors = compare("image", "image+label", seeds="0")
    assert code == 0, errors
    assert "going on after step 2" in errors
    assert first.stat().st_mtime_ns == before
    (tmp_path / "out").rename(tmp_path / "stopped")
    assert compare("image", "image+label", seeds="0")[0] == 0
    assert figures_of(tmp_path / "stopped") == figures_of(tmp_path / "out")
    stopped, undisturbed = (
        load_file(tmp_path / name / "runs" / "image+label-0" / "checkpoints" / "step-4" / "model.safetensors")
        for name in ("stopped", "out")
    )
    assert all(stopped[name].equal(tensor) for name, tensor in undisturbed.items())


def test_a_control_is_not_trained_or_learns_what_its_recipe_does(compare, tmp_path):
    # Without weight decay, which changes weights that no loss reaches
    code, output, errors = compare("masked-image", "--control", "--set", "train.weight_decay=0.0", seeds="0")
    assert code == 0, errors
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    control = "masked-image (its views alone)"
    assert list(found["recipes"]) == ["masked-image", control]
    assert found["steps"][control] == [2, 4]
    assert control in output
    (figure,) = found["figures"]
    assert figure["of"] == ["image"]
    assert [len(value["each"]) for value in figure["values"][control]] == [1, 1]
    drawn = load_file(tmp_path / "out" / "initial-0.safetensors")

    def learnt(name):
        weights = load_file(tmp_path / "out" / "runs" / name / "checkpoints" / "step-4" / "model.safetensors")
        return {key for key, tensor in weights.items() if not tensor.equal(drawn[key])}

    plain, controlled = learnt("masked-image-0"), learnt("masked-image--its-views-alone-0")
    head = {key for key in drawn if key.startswith("decoders.masked_image.")}
    assert plain & head
    assert not controlled & head, "it has a loss of its views"
    assert "backbone.embed_flags.weight" in controlled, "it is not shown its views"


def test_what_was_judged_has_to_be_trained_again_once_its_weights_are_gone(compare, tmp_path):
    assert compare("image", "image+label", seeds="0")[0] == 0
    before = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for run in (tmp_path / "out" / "runs").iterdir():
        shutil.rmtree(run / "checkpoints")
    (tmp_path / "out" / "initial-0.safetensors").unlink()
    code, _, errors = compare("image", "image+label", seeds="0")
    assert code == 0, errors
    assert "seed 0" not in errors
    assert not list((tmp_path / "out" / "runs").glob("*/checkpoints"))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == before


def test_a_run_of_another_recipe_is_taken_for_this_one(compare, tmp_path):
    assert compare("image", "image+label", seeds="0")[0] == 0
    code, _, errors = compare("image", "image+label", "--set", "train.learning_rate=0.5", seeds="0")
    assert code == 2
    assert "another recipe" in errors


def test_recipes_of_one_architecture_start_from_other_weights_or_see_other_data(compare, tmp_path):
    variant = "image+label,modalities.label.weight=0.0"
    assert compare("image+label", variant, "--set", "train.learning_rate=0.0", seeds="0")[0] == 0
    runs = tmp_path / "out" / "runs"
    first, second = (json.loads((runs / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in
                     ("image+label-0", "image+label-modalities.label.weight-0.0-0"))  # fmt: skip
    assert first["loss/image"] == second["loss/image"]
    assert first["loss/label"] == second["loss/label"]


def test_recipes_of_other_architectures_start_from_other_weights_or_see_the_anchor_under_other_noise(compare, tmp_path):
    blocks = "image+label,space.aggregator=blocks"
    assert compare("image", blocks, "--set", "train.learning_rate=0.0", seeds="0")[0] == 0
    alone, joint = (
        tmp_path / "out" / "runs" / f"{name}-0" for name in ("image", "image+label-space.aggregator-blocks")
    )
    weights = [load_file(run / "checkpoints" / "step-4" / "model.safetensors") for run in (alone, joint)]
    common = [name for name, tensor in weights[0].items() if tensor.shape == weights[1][name].shape]
    assert "backbone.middle.0.conv_in.weight" in common
    assert "backbone.stem.weight" not in common
    assert all(weights[0][name].equal(weights[1][name]) for name in common)
    # Untrained, both predict v = 0: all that the loss depends on is the data, the times and the anchor's noise.
    losses = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss/image"] for run in (alone, joint)]
    assert losses[0] == pytest.approx(losses[1])
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["equal_start"]["image"] == 1
    assert 0.8 < found["equal_start"][blocks] < 1


def test_a_recipe_that_joins_and_comes_first_starts_from_weights_of_its_own(compare, tmp_path):
    still = ["--set", "train.learning_rate=0.0"]
    assert compare("image", "image+label", *still, seeds="0")[0] == 0
    drawn = (tmp_path / "out" / "initial-0.safetensors").read_bytes()
    joins = "image+label,modalities.label.weight=0.3"
    assert compare(joins, "image", *still, seeds="0")[0] == 0
    assert (tmp_path / "out" / "initial-0.safetensors").read_bytes() == drawn
    weights = load_file(tmp_path / "out" / "initial-0.safetensors")
    folder = tmp_path / "out" / "runs" / "image+label-modalities.label.weight-0.3-0" / "checkpoints" / "step-4"
    started = load_file(folder / "model.safetensors")
    assert all(started[name].equal(tensor) for name, tensor in weights.items() if tensor.shape == started[name].shape)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["reference"] == joins


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(b"no weights"), "initial-0.safetensors: is damaged"),
        (lambda file: file.unlink(), "image-0: began from other weights"),
    ],
    ids=["damaged", "gone"],
)
def test_runs_that_start_from_other_weights_are_compared(compare, tmp_path, spoil, message):
    assert compare("image", "image+label", seeds="0")[0] == 0
    spoil(tmp_path / "out" / "initial-0.safetensors")
    code, _, errors = compare("image", "image+label", "image+label,modalities.label.weight=0.3", seeds="0")
    assert code == 2
    assert message in " ".join(errors.split())
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image"], "nothing to compare"),
        (["image", "image"], "given twice"),
        (["image", "image+label", "--control"], "derives a modality"),
        (["image", "image+label", "--metric", "acuracy"], "did you mean 'accuracy'"),
        (["image", "image+label,modalities.label.wieght=1"], "unknown key"),
        (["image", "image+label,backbone.multipliers=[1,0]"], "backbone.multipliers: must be"),
        (["image", "image+label", "--metric-set", "psnr.x=1"], "--metric-set"),
        (["image", "image+label", "--device", "abacus"], "no device 'abacus'"),
        (["image", "image,seed=5"], "image,seed=5: seed: each recipe is trained with the same seeds --seeds sets them"),
        (["image", "image+label", "--set", "seed=5"], "--seeds sets them"),
    ],
)
def test_bad_input_is_taken_or_leaves_something_behind(compare, tmp_path, arguments, message):
    code, _, errors = compare(*arguments)
    assert code == 2
    assert message in " ".join(errors.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", ["a", "1.5", "0,0", "1,01", ""])
def test_seeds_that_are_no_different_integers_are_taken(compare, seeds):
    code, _, errors = compare("image", "image+label", seeds=seeds)
    assert code == 2
    assert "--seeds" in errors


@pytest.mark.parametrize("at", ["0,1", "2", "x"])
def test_shares_that_are_none_are_taken(mtdiff, tmp_path, at):
    code, _, errors = mtdiff("compare", "image", "image+label", "--at", at, "--out", tmp_path / "out")
    assert code == 2
    assert "--at" in errors


def test_a_metric_without_a_figure_of_what_is_common_is_passed_over(mtdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    asked = ["--seeds", 0, "--at", 1, "--num", 16, "--metric", "accuracy", "--out", tmp_path / "out"]
    code, _, errors = mtdiff("compare", "image", "image+label", *SMALL, *asked)
    assert code == 2
    assert "'accuracy' needs" in errors


def test_a_finished_run_without_a_checkpoint_to_judge_is_trained_again_or_said_to_be_unfinished(compare, tmp_path):
    assert compare("image", "image+label", seeds="0")[0] == 0
    code, _, errors = compare("image", "image+label", "--at", "0.75", seeds="0")
    assert code == 2
    assert "has no checkpoint of step 3" in errors
    assert "--resume" not in errors
    assert (tmp_path / "out" / "comparison.json").exists()
