"""Runs from the command line: the same twice, and the same whether or not they were stopped on the way."""

import itertools
import json
import math
import re
import shutil
import signal
import sys
from functools import partialmethod

import pytest
import safetensors.torch
import torch
from PIL import Image as Picture
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtdiff_core.training.trainer import Trainer

STEPS = 120
PARTS = ("model", "ema", "averages", "optimizer")


def run(mtdiff, recipe, out, *arguments):
    code, output, errors = mtdiff("run", recipe, "--out", out, *arguments)
    assert code == 0, errors
    return output, errors


def long(*more):
    """Settings of a run that lasts long enough to be stopped, and saves every seven steps."""
    settings = (f"train.steps={STEPS}", "train.checkpoint_every=7", *more)
    return [argument for setting in settings for argument in ("--set", setting)]


def final(run_directory, part, step):
    return (run_directory / f"checkpoints/step-{step}/{part}.safetensors").read_bytes()


def samples(run_directory):
    return (run_directory / "samples/samples.safetensors").read_bytes()


def metrics(run_directory):
    return [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other, steps):
    """Weights, average, optimizer, samples and all that was logged but the speed."""
    for part in PARTS:
        assert final(one, part, steps) == final(other, part, steps), f"{part} differs"
    assert samples(one) == samples(other), "samples differ"
    assert [line["step"] for line in metrics(other)] == list(range(1, steps + 1))
    for mine, its in zip(metrics(one), metrics(other), strict=True):
        mine.pop("images_per_second"), its.pop("images_per_second")
        assert mine == its


# Repeating


def test_one_seed_twice_is_one_result_bit_for_bit_and_another_seed_another(mtdiff, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(mtdiff, tiny, name, "--seed", seed)
    assert_same_run(tmp_path / "a", tmp_path / "b", steps=4)
    one, other = (safetensors.torch.load(final(tmp_path / name, "ema", 4)) for name in "ac")
    assert not one["backbone.stem.weight"].equal(other["backbone.stem.weight"])
    one, other = (safetensors.torch.load(samples(tmp_path / name)) for name in "ac")
    assert not one["image"].equal(other["image"])


def test_the_resolved_recipe_in_a_run_directory_repeats_the_run(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "first", "--set", "train.steps=3", "--set", "sample.num=5", "--seed", 3)
    run(mtdiff, tmp_path / "first" / "recipe.toml", "again")
    assert_same_run(tmp_path / "first", tmp_path / "again", steps=3)
    assert (tmp_path / "first" / "recipe.toml").read_text() == (tmp_path / "again" / "recipe.toml").read_text()


def test_the_number_of_workers_does_not_change_the_result(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "none", "--set", "modalities.image.flip=true")
    run(mtdiff, tiny, "two", "--set", "modalities.image.flip=true", "--set", "data.workers=2")
    assert_same_run(tmp_path / "none", tmp_path / "two", steps=4)


# The run directory


def test_a_run_directory_holds_what_is_promised_and_nothing_else(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    found = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    events = {name for name in found if re.fullmatch(r"tensorboard/events\.out\.tfevents\..*", name)}
    assert len(events) == 1
    checkpoints = {
        f"checkpoints/step-{step}/{name}"
        for step in (2, 4)
        for name in (
            "model.safetensors",
            "ema.safetensors",
            "averages.safetensors",
            "optimizer.safetensors",
            "state.json",
        )
    }
    averages = {f"averages/step-{step}/{name}" for step in (1, 2, 3) for name in ("averages.safetensors", "state.json")}
    assert found - events == {
        "recipe.toml", "environment.json", "metrics.jsonl", "checkpoints/latest", *checkpoints,
        "averages/latest", *averages,
        "samples/grid.png", "samples/samples.safetensors",
    }  # fmt: skip


def test_runs_are_numbered_below_the_recipe_s_name(mtdiff, tiny, tmp_path):
    for number in (1, 2):
        code, output, _ = mtdiff("run", tiny)
        assert code == 0
        assert f"runs/tiny/{number}/samples/grid.png" in output
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == {"1", "2"}


def test_the_environment_is_recorded(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run", "--seed", 5)
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert recorded["command"] == sys.argv
    assert recorded["seed"] == 5
    assert {"mtdiff", "torch", "python"} <= recorded["versions"].keys()
    assert {"image", "label"} <= {plugin["name"] for plugin in recorded["plugins"]}
    assert recorded["hardware"]["threads"] == 1


def tensorboard(run_directory):
    events = EventAccumulator(str(run_directory / "tensorboard")).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return steps, [event.step for event in events.Images("samples")]


def test_tensorboard_shows_what_metrics_holds_and_the_final_picture(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    logged = metrics(tmp_path / "run")
    steps, pictures = tensorboard(tmp_path / "run")
    assert steps == {tag: [1, 2, 3, 4] for tag in logged[0] if tag != "step"}
    assert pictures == [4]


# Stopping and going on


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder for what several tests compare with."""
    return tmp_path_factory.mktemp("whole")


def whole(mtdiff, tiny, kept):
    """The same long run, never stopped; made once."""
    if not (kept / "run").exists():
        run(mtdiff, tiny, kept / "run", *long())
    return kept / "run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_it_had_not(
    mtdiff, tiny, tmp_path, kept, run_until, number
):
    code, errors = run_until(tiny, *long(), out="stopped", logged=3, number=number)
    assert code == 130, errors
    (step,) = re.findall(r"stopped after step (\d+); the checkpoint is saved", errors)
    assert "--resume" in errors
    assert (tmp_path / "stopped" / "checkpoints" / "latest").read_text() == f"step-{step}\n"
    assert 3 <= int(step) < STEPS
    _, errors = run(mtdiff, tiny, "stopped", *long(), "--resume")
    assert f"going on after step {step}" in errors
    assert_same_run(whole(mtdiff, tiny, kept), tmp_path / "stopped", STEPS)
    steps, _ = tensorboard(tmp_path / "stopped")
    assert steps["loss/image"] == list(range(1, STEPS + 1))


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_as_if_it_had_not(
    mtdiff, tiny, tmp_path, kept, run_until
):
    code, _ = run_until(tiny, *long(), out="killed", logged=9, number=signal.SIGKILL)
    assert code == -signal.SIGKILL
    saved = int((tmp_path / "killed" / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert saved % 7 == 0
    run(mtdiff, tiny, "killed", *long(), "--resume")
    assert_same_run(whole(mtdiff, tiny, kept), tmp_path / "killed", STEPS)
    steps, _ = tensorboard(tmp_path / "killed")
    assert steps["loss/image"] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_to_all_processes_does_not_take_the_workers_away_before_the_run_has_saved(
    tiny, tmp_path, run_until, number
):
    settings = long("data.workers=2", "train.steps=2000")
    code, errors = run_until(tiny, *settings, out="run", logged=3, number=number, to_all=True)
    assert code == 130, errors
    (step,) = re.findall(r"stopped after step (\d+); the checkpoint is saved", errors)
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == f"step-{step}\n"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.workers=2"],
        ["train.precision=bf16"],
        ["train.compile=true"],
        ["train.ema_snapshots=2", "train.accumulate=2"],
        ["data.keep.label=0.5", "data.complete_share=0.5", "train.impute_from=2"],
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_a_run_that_goes_on_twice_and_at_the_end_of_an_epoch_is_another(mtdiff, tiny, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    # Three batches are an epoch of the 1,500 digits.
    chosen = ("data.batch_size=500", "train.steps=7", "train.checkpoint_every=1", "train.keep_every=1", *settings)
    arguments = [argument for setting in chosen for argument in ("--set", setting)]
    run(mtdiff, tiny, "whole", *arguments)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for last in (3, 5):
        for step in range(last + 1, 8):
            shutil.rmtree(tmp_path / "again" / "checkpoints" / f"step-{step}")
        (tmp_path / "again" / "checkpoints" / "latest").write_text(f"step-{last}\n")
        (tmp_path / "again" / "samples" / "samples.safetensors").unlink()
        _, errors = run(mtdiff, tiny, "again", *arguments, "--resume")
        assert f"going on after step {last}" in errors
        assert_same_run(tmp_path / "whole", tmp_path / "again", 7)


def test_a_run_does_not_go_on_with_another_number_of_workers(mtdiff, tiny, tmp_path):
    def settings(workers):
        chosen = ("train.steps=9", "train.checkpoint_every=3", "train.keep_every=3", f"data.workers={workers}")
        return [argument for setting in (*chosen, "modalities.image.rotate=10") for argument in ("--set", setting)]

    run(mtdiff, tiny, "whole", *settings(0))
    run(mtdiff, tiny, "again", *settings(2))
    for last, workers in ((3, 0), (6, 3)):
        for step in range(last + 1, 10):
            shutil.rmtree(tmp_path / "again" / "checkpoints" / f"step-{step}", ignore_errors=True)
        (tmp_path / "again" / "checkpoints" / "latest").write_text(f"step-{last}\n")
        (tmp_path / "again" / "samples" / "samples.safetensors").unlink()
        _, errors = run(mtdiff, tiny, "again", *settings(workers), "--resume")
        assert f"going on after step {last}" in errors
        assert_same_run(tmp_path / "whole", tmp_path / "again", 9)


def test_a_run_killed_before_its_first_checkpoint_starts_over(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "whole")
    run(mtdiff, tiny, "again")
    for path in (tmp_path / "again" / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    run(mtdiff, tiny, "again", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "again", steps=4)


def test_resuming_a_finished_run_samples_again_and_changes_nothing(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if "tfevents" not in path.name}
    (tmp_path / "run" / "samples" / "samples.safetensors").unlink()
    run(mtdiff, tiny, "run", "--resume")
    assert {path: path.read_bytes() for path in before} == before


def test_a_line_that_a_crash_cut_short_is_dropped_from_the_log(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run", "--set", "train.checkpoint_every=3")
    (tmp_path / "run" / "checkpoints" / "step-4").rename(tmp_path / "away")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "loss/im')
    run(mtdiff, tiny, "run", "--set", "train.checkpoint_every=3", "--resume")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_log_with_a_damaged_byte_keeps_a_run_from_going_on(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run", "--set", "train.checkpoint_every=3")
    (tmp_path / "run" / "checkpoints" / "step-4").rename(tmp_path / "away")
    log = tmp_path / "run" / "metrics.jsonl"
    first, rest = log.read_bytes().split(b"\n", 1)
    log.write_bytes(first.replace(b"loss", b"l\xffss") + b"\n" + rest)
    run(mtdiff, tiny, "run", "--set", "train.checkpoint_every=3", "--resume")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def pictures_of_cats_and_dogs(folder):
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            Picture.new("L", (8, 8), 20 * i).save(folder / "pictures" / name / f"{i}.png")
    return ["--set", "data.dataset=image-folder", "--set", "data.path=pictures", "--set", "data.colour=false"]


def test_a_run_goes_on_with_data_in_which_a_label_means_something_else(mtdiff, tiny, tmp_path):
    own = pictures_of_cats_and_dogs(tmp_path)
    run(mtdiff, tiny, "run", *own)
    (tmp_path / "run" / "checkpoints" / "step-4").rename(tmp_path / "away")
    (tmp_path / "pictures" / "cat").rename(tmp_path / "pictures" / "zebra")
    code, _, errors = mtdiff("run", tiny, "--out", "run", *own, "--resume")
    assert code == 2
    assert "the data has changed since it was trained on: its field 'label'" in errors
    assert "give the run its data back, or begin a new one" in errors
    (tmp_path / "pictures" / "zebra").rename(tmp_path / "pictures" / "cat")
    run(mtdiff, tiny, "run", *own, "--resume")


def test_a_run_goes_on_in_the_order_of_other_data_once_a_sample_is_added(mtdiff, tiny, tmp_path):
    """An epoch's order depends on how many there are: a sample would come twice, and others not at all."""
    own = pictures_of_cats_and_dogs(tmp_path)
    run(mtdiff, tiny, "run", *own)
    (tmp_path / "run" / "checkpoints" / "step-4").rename(tmp_path / "away")
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    Picture.new("L", (8, 8), 255).save(tmp_path / "pictures" / "cat" / "new.png")
    code, _, errors = mtdiff("run", tiny, "--out", "run", *own, "--resume")
    assert code == 2
    found = re.search(r"data has changed since it was trained on: (\d+) training samples then, (\d+) now", errors)
    assert found
    assert int(found[2]) == int(found[1]) + 1
    assert "give the run its data back, or begin a new one" in errors
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == log
    (tmp_path / "pictures" / "cat" / "new.png").unlink()
    run(mtdiff, tiny, "run", *own, "--resume")


def test_resume_without_a_folder_takes_the_newest_run(mtdiff, tiny, tmp_path):
    for _ in range(2):
        assert mtdiff("run", tiny)[0] == 0
    code, _, errors = mtdiff("run", tiny, "--resume")
    assert code == 0
    assert "run directory: runs/tiny/2" in errors


def test_after_a_damaged_checkpoint_the_one_before_does_not_continue_the_same_run(mtdiff, tiny, tmp_path, caplog):
    run(mtdiff, tiny, "whole")
    run(mtdiff, tiny, "run")
    damaged = tmp_path / "run" / "checkpoints" / "step-4" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run(mtdiff, tiny, "run", "--resume")
    assert any("optimizer.safetensors: is damaged" in said and "of step 2 is used" in said for said in caplog.messages)
    assert_same_run(tmp_path / "whole", tmp_path / "run", steps=4)


def test_a_run_whose_weights_and_average_were_swapped_on_disk_goes_on(mtdiff, tiny, tmp_path):
    one_checkpoint = ("--set", "train.keep_checkpoints=1")
    run(mtdiff, tiny, "run", *one_checkpoint)
    folder = tmp_path / "run" / "checkpoints" / "step-4"
    (folder / "model.safetensors").rename(folder / "aside")
    (folder / "ema.safetensors").rename(folder / "model.safetensors")
    (folder / "aside").rename(folder / "ema.safetensors")
    for command in (["run", tiny, "--resume", "--out", "run", *one_checkpoint], ["sample", "run"]):
        code, _, errors = mtdiff(*command)
        assert code == 2
        assert ".safetensors: is damaged: its content is not what was saved" in errors


def test_after_going_back_the_logs_hold_steps_that_do_not_count(mtdiff, tiny, tmp_path, monkeypatch):
    backward, number = Trainer._backward, itertools.count()

    def spoilt(self, batch):
        bad = next(number) in (2, 3)
        for terms in backward(self, batch):
            yield {name: term * (math.nan if bad else 1) for name, term in terms.items()}

    monkeypatch.setattr(Trainer, "_backward", spoilt)
    run(mtdiff, tiny, "run", "--set", "train.max_skipped=2")  # saves every second step
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    assert [line["skipped_steps"] for line in metrics(tmp_path / "run")] == [0, 0, 2, 2]
    assert all(steps == [1, 2, 3, 4] for steps in tensorboard(tmp_path / "run")[0].values())


def test_what_changes_no_result_keeps_a_run_from_going_on(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    _, errors = run(mtdiff, tiny, "run", "--resume", "--set", "train.parallel=fsdp2")
    assert "going on after step 4" in errors


def test_another_recipe_does_not_continue_a_run(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    code, _, errors = mtdiff("run", tiny, "--out", "run", "--resume", "--set", "train.learning_rate=0.5", "--seed", 7)
    assert code == 2
    assert "different: seed, train.learning_rate" in errors


def test_a_run_is_never_written_over(mtdiff, tiny, tmp_path):
    run(mtdiff, tiny, "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    code, _, errors = mtdiff("run", tiny, "--out", "run")
    assert code == 2
    assert "--resume" in errors
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
