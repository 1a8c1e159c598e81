"""From any data set to shards, and from these to a run: as a user would."""

import json
import os
import signal
import time

import pytest
import safetensors.torch

from tests.processes import PATIENCE, Started

PARTS = ("model", "ema", "optimizer")
REPRESENTED = """
[modalities.seen]
type = "representation"
field = "image"

"""


def ok(mtdiff, *arguments):
    code, said, errors = mtdiff(*arguments)
    assert code == 0, errors
    return said, errors


@pytest.fixture
def packed(mtdiff, tiny, tmp_path):
    """The tiny recipe with its digits in shards: the recipe that `mtdiff data pack` wrote."""
    ok(mtdiff, "data", "pack", tiny, "--out", "packed", "--shard-size", 100)
    return tmp_path / "packed" / "recipe.toml"


def weights(run, step):
    return {part: (run / f"checkpoints/step-{step}/{part}.safetensors").read_bytes() for part in PARTS}


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def test_what_packing_says_is_not_what_there_is(mtdiff, tiny, tmp_path):
    said, errors = ok(mtdiff, "data", "pack", tiny, "--out", "packed", "--shard-size", 400)
    assert "packing packed/train" in errors
    assert "packed/train: 1500 samples in 4 shards" in said
    assert "packed/test: 297 samples in 1 shards" in said
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {"train", "test", "recipe.toml"}
    said, _ = ok(mtdiff, "recipes", "validate", "packed/recipe.toml")
    assert "1500 training samples" in said


def test_a_data_set_by_its_name_is_packed_without_its_options_or_a_table_that_reads_it(mtdiff, tmp_path):
    ok(mtdiff, "data", "pack", "scenes", "--set", "data.size=16", "--set", "data.train=9", "--set", "data.test=0",
       "--out", "packed", "--no-shuffle")  # fmt: skip
    index = json.loads((tmp_path / "packed/train/index.json").read_text())
    assert index["fields"]["image"]["shape"] == [3, 16, 16]
    assert [shard["samples"] for shard in index["shards"]] == [9]
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {"train", "dataset.toml"}
    table = (tmp_path / "packed/dataset.toml").read_text()
    assert f'train = "{tmp_path}/packed/train"' in table
    assert "test =" not in table


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_that_was_stopped_goes_on_otherwise_than_if_it_had_not(mtdiff, packed, tmp_path, workers):
    # two epochs and more in windows of 150 of 1,500: step 7 is amid one
    settings = [f"data.workers={workers}", "data.shuffle_buffer=150", "data.batch_size=250", "train.steps=14"]
    settings = [argument for one in (*settings, "train.checkpoint_every=7") for argument in ("--set", one)]
    ok(mtdiff, "run", packed, "--out", "whole", *settings)
    ok(mtdiff, "run", packed, "--out", "stopped", *settings)
    (tmp_path / "stopped/checkpoints/step-14").rename(tmp_path / "away")
    _, errors = ok(mtdiff, "run", packed, "--out", "stopped", "--resume", *settings)
    assert "going on after step 7" in errors
    assert weights(tmp_path / "whole", 14) == weights(tmp_path / "stopped", 14)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    assert len(losses(tmp_path / "whole")) == 14


def test_the_number_of_workers_changes_a_run_on_shards(mtdiff, packed, tmp_path):
    for workers in (0, 2):
        ok(mtdiff, "run", packed, "--out", f"run-{workers}", "--set", f"data.workers={workers}",
           "--set", "modalities.image.flip=true")  # fmt: skip
    assert weights(tmp_path / "run-0", 4) == weights(tmp_path / "run-2", 4)


def test_a_run_on_shards_cannot_be_given_values_of_its_data_or_judged_by_it(mtdiff, packed, tmp_path):
    ok(mtdiff, "run", packed, "--out", "run")
    for split in ("train", "test"):
        ok(mtdiff, "sample", "run", "--given", f"image=@{split}", "--num", 5, "--steps", 2, "--out", split)
        assert len(safetensors.torch.load_file(tmp_path / split / "samples.safetensors")["label"]) == 5
    ok(mtdiff, "evaluate", "run", "--metric", "accuracy", "--num", 20, "--steps", 2, "--no-bound")
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert "accuracy" in json.dumps(found["directions"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.complete_share=0.5", "which samples of a stream lack nothing is not known"),
        ("data.dataset=webdataset", "'representation' has to see every sample before training"),
    ],
)
def test_what_a_stream_cannot_do_is_found_out_late_or_never(mtdiff, packed, tmp_path, setting, said):
    if "representation" in said:
        text = packed.read_text()
        packed.write_text(f"{text[: text.index('[modalities.label]')]}{REPRESENTED}{text[text.index('[backbone]') :]}")
    code, _, errors = mtdiff("run", packed, "--out", "run", "--set", setting)
    assert code == 2, errors
    assert said in errors
    assert not (tmp_path / "run").exists()


def test_shards_are_packed_again_as_if_they_were_all(mtdiff, packed):
    code, _, errors = mtdiff("data", "pack", packed, "--out", "again")
    assert code == 2
    assert "webdataset: is a stream itself" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digitz",), "is no recipe, and no data set\n  did you mean 'digits'?"),
        (("digits", "--set", "data.sice=8"), "data.sice: unknown key; did you mean 'size'?"),
        (("digits", "--set", "size=8"), "'size' is no key of a data set"),
        (("scenes", "--set", "data.size=3"), "data.size: must be from 16 to 256"),
    ],
)
def test_what_cannot_be_packed_leaves_something_behind(mtdiff, tmp_path, arguments, said):
    code, _, errors = mtdiff("data", "pack", *arguments, "--out", "packed")
    assert code == 2
    assert said in errors
    assert not (tmp_path / "packed").exists()


def test_a_recipe_of_the_user_s_own_is_written_over(mtdiff, tiny, tmp_path):
    own = tiny.rename(tmp_path / "recipe.toml")
    before = own.read_text()
    code, _, errors = mtdiff("data", "pack", own, "--out", ".")
    assert code == 2
    assert "recipe.toml: would be written over" in errors
    assert own.read_text() == before
    assert not (tmp_path / "train").exists()


def test_packing_that_is_interrupted_leaves_half_a_shard_or_cannot_go_on(mtdiff, tmp_path):
    arguments = ["data", "pack", "scenes", "--set", "data.train=3000", "--set", "data.test=0", "--shard-size", "50"]
    process = Started(*arguments, "--out", "packed", folder=tmp_path)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "packed/train/index.partial.json").exists():
        assert process.returncode is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    names = {path.name for path in (tmp_path / "packed/train").iterdir()}
    assert all(not name.startswith(".") for name in names), "half a shard is left"
    assert "index.json" not in names
    few = [argument.replace("3000", "150") for argument in arguments]
    code, _, errors = mtdiff(*few, "--out", "packed")
    assert code == 2, "another data set goes into the same folder"
    assert "holds shards of another data set" in errors


def test_damage_is_not_found_listed_and_mended(mtdiff, packed, tmp_path, tiny):
    said, _ = ok(mtdiff, "data", "check", "packed")
    assert "all shards are as they were written" in said
    shard = tmp_path / "packed/train/000003.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "packed/train/000005.tar").unlink()
    code, said, errors = mtdiff("data", "check", "packed")
    assert code == 2
    lines = said.splitlines()
    assert "packed/train/000005.tar: is not there (100 samples)" in lines
    assert 40 < sum("000003.tar, sample" in line for line in lines) < 60
    assert f"packed: {len(lines)} faults, listed above" in errors
    shard.unlink()
    ok(mtdiff, "data", "pack", tiny, "--out", "packed", "--shard-size", 100)
    ok(mtdiff, "data", "check", "packed")
    assert shard.read_bytes() == whole


def test_a_run_on_damaged_shards_ends_or_says_nothing(mtdiff, packed, tmp_path, caplog):
    shard = tmp_path / "packed/train/000003.tar"
    shard.write_bytes(shard.read_bytes()[:-20_000])  # ten samples or so
    ok(mtdiff, "run", packed, "--out", "run", "--set", "data.shuffle_buffer=1500")
    assert any(said.startswith("left out: ") and "000003.tar, sample 99" in said for said in caplog.messages)
    shard.write_bytes(shard.read_bytes()[:50_000])
    code, _, errors = mtdiff("run", packed, "--out", "again", "--set", "data.shuffle_buffer=1500")
    assert code == 2
    assert "of 1500 samples are damaged, more than max_bad = 0.01" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_whose_shard_vanishes_cannot_be_resumed_once_it_is_back(mtdiff, packed, tmp_path, monkeypatch, workers):
    settings = ["--set", "data.batch_size=100", "--set", "data.shuffle_buffer=10", "--set", f"data.workers={workers}",
                "--set", "train.steps=15", "--set", "train.checkpoint_every=4"]  # fmt: skip
    ok(mtdiff, "run", packed, "--out", "whole", *settings)

    from mtdiff_datasets.webdataset import ShardStream

    read, opened = ShardStream.read, []

    def vanishing(self, shard, start):
        opened.append(shard)
        if len(opened) == 12:
            os.rename(tmp_path / f"packed/train/{shard:06d}.tar", tmp_path / "away.tar")  # noqa: PTH104
        yield from read(self, shard, start)

    with monkeypatch.context() as patch:
        patch.setattr(ShardStream, "read", vanishing)
        code, _, errors = mtdiff("run", packed, "--out", "run", *settings)
    gone = opened[11]
    assert code == 2
    done = len(losses(tmp_path / "run"))
    assert 0 < done < 15
    assert done % 4, "a checkpoint was due anyway"
    assert (tmp_path / "run/checkpoints/latest").read_text() == f"step-{done}\n"
    assert f"{gone:06d}.tar: cannot be read (No such file" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    code, _, errors = mtdiff("run", packed, "--out", "run", "--resume", *settings)
    assert code == 2
    assert f"1 of 15 shards are not there: {gone:06d}.tar" in errors
    (tmp_path / "away.tar").rename(tmp_path / f"packed/train/{gone:06d}.tar")
    ok(mtdiff, "run", packed, "--out", "run", "--resume", *settings)
    assert weights(tmp_path / "whole", 15) == weights(tmp_path / "run", 15)
