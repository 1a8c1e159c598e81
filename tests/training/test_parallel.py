"""Runs on several processes: the same as on one, whoever stops, dies or comes back."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import partialmethod
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

from mtdiff_core import world
from mtdiff_core.data.loading import Preparation
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.training.parallel import check_parallel, check_shardable
from mtdiff_core.world import ALONE, World, joined
from tests.conftest import TINY
from tests.crashes import Launcher
from tests.processes import PATIENCE, Processes, run_together
from tests.training import shared_gradients

STEPS = 6
# Rounding differs with how a sum is cut. Dropout draws for the rows at hand, so it cannot be alike.
TOLERANCE = 1e-3
SETTINGS = (
    f"train.steps={STEPS}", "train.grid_every=3", "train.accumulate=2", "data.keep.label=0.5",
    "modalities.label.dropout=0", "modalities.image.rotate=10", "sample.batch_size=2", "sample.num=5",
)  # fmt: skip


@contextmanager
def eager_compiler():
    """torch.compile without a compiler, whose own work is its to test; says how many graphs there were."""
    nn.Module.compile = partialmethod(nn.Module.compile, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    print("graphs:", torch._dynamo.utils.counters["stats"]["unique_graphs"], file=sys.stderr)


def arguments(tiny, out, *settings):
    options = [argument for setting in (*SETTINGS, *settings) for argument in ("--set", setting)]
    return ["run", str(tiny), "--out", str(out), *options]


def wait_for_lines(path, count):
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, "logged nothing"
        time.sleep(0.01)


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


def tensors(run, file):
    return safetensors.torch.load_file(run / file)


def assert_same_run(run, other, steps=STEPS):
    """The same losses, weights, averages, moments, counts and samples, but for rounding."""
    assert [line["step"] for line in metrics(other)] == list(range(1, steps + 1))
    for mine, its in zip(metrics(run), metrics(other), strict=True):
        mine.pop("images_per_second"), its.pop("images_per_second")
        assert its == pytest.approx(mine, rel=TOLERANCE, nan_ok=True)
    for part in ("model", "ema", "optimizer"):
        mine, its = (tensors(one, f"checkpoints/step-{steps}/{part}.safetensors") for one in (run, other))
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            assert its[name].shape == tensor.shape
            error = (its[name].double() - tensor.double()).norm()
            assert error <= TOLERANCE * tensor.double().norm() + 1e-6, f"{part}: {name}"
    mine, its = (tensors(one, "samples/samples.safetensors") for one in (run, other))
    for name, tensor in mine.items():
        torch.testing.assert_close(its[name], tensor, rtol=0, atol=TOLERANCE, msg=f"samples of {name}")


def without_later_steps(run, step, to):
    """A copy of a run as it was after a step that it saved."""
    shutil.copytree(run, to)
    for folder in (to / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    shutil.rmtree(to / "samples")
    (to / "samples").mkdir()
    return to


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def recipe(folder):
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def runs(folder, recipe):
    """The same run on one process, and on two in both ways."""
    run_together(1, folder, *arguments(recipe, "one"))
    for way in ("ddp", "fsdp2"):
        run_together(2, folder, *arguments(recipe, way, f"train.parallel={way}"), fresh=True)
    return {name: folder / name for name in ("one", "ddp", "fsdp2")}


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_train_other_weights_than_one(runs, way):
    assert_same_run(runs["one"], runs[way])


def test_features_that_no_head_reads_keep_processes_from_averaging(recipe, tmp_path):
    text = recipe.read_text()
    start, end = text.index("[modalities.label]"), text.index("[backbone]")
    (tmp_path / "image.toml").write_text(text[:start] + text[end:])
    options = [o for s in (f"train.steps={STEPS}", "train.accumulate=2", "sample.num=2") for o in ("--set", s)]
    for count, out in ((1, "one"), (2, "two")):
        run_together(count, tmp_path, "run", "image.toml", "--out", out, *options)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(("before", "after"), [("ddp", 1), ("one", 2), ("fsdp2", 1)])
def test_a_run_cannot_go_on_with_another_number_of_processes(runs, recipe, tmp_path, before, after):
    way = () if before == "one" else (f"train.parallel={before}",)
    run = without_later_steps(runs[before], 2, tmp_path / "run")
    said = run_together(after, tmp_path, *arguments(recipe, run, *way), "--resume")
    assert "going on after step 2" in said[0]
    assert_same_run(runs["one"], run)


def test_a_sharded_run_does_not_go_on_as_one(runs, recipe, tmp_path):
    run = without_later_steps(runs["fsdp2"], 2, tmp_path / "run")
    run_together(2, tmp_path, *arguments(recipe, run, "train.parallel=fsdp2"), "--resume")
    assert_same_run(runs["fsdp2"], run)


def test_a_process_of_a_sharded_run_writes_more_than_its_parts_or_the_last_weights_are_in_pieces(runs):
    checkpoints = runs["fsdp2"] / "checkpoints"
    parts = sorted(path.name for path in (checkpoints / "step-2" / "shards").iterdir())
    assert [name.split("-model-")[0] for name in parts] == ["shard-00001", "shard-00002"]
    sizes = [(checkpoints / "step-2" / "shards" / name).stat().st_size for name in parts]
    assert max(sizes) < 1.5 * min(sizes)
    assert not list((checkpoints / "step-2").glob("*.safetensors"))
    whole = {path.name for path in (checkpoints / f"step-{STEPS}").iterdir()}
    assert whole == {f"{part}.safetensors" for part in ("model", "ema", "averages", "optimizer")} | {"state.json"}


def test_a_checkpoint_in_pieces_cannot_be_sampled_from_or_gives_other_samples(runs, mtdiff):
    for way in ("one", "fsdp2"):
        code, _, errors = mtdiff(
            "sample", runs[way], "--checkpoint", 2, "--num", 3, "--steps", 2, "--out", runs[way] / "at-2"
        )
        assert code == 0, errors
    one, other = (tensors(runs[way], "at-2/samples.safetensors") for way in ("one", "fsdp2"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=TOLERANCE)


def test_a_damaged_piece_is_taken_for_whole(runs, tmp_path, mtdiff):
    run = without_later_steps(runs["fsdp2"], 2, tmp_path / "run")
    piece = next((run / "checkpoints" / "step-2" / "shards").iterdir())
    data = bytearray(piece.read_bytes())
    data[-1] ^= 1
    piece.write_bytes(data)
    code, _, errors = mtdiff("sample", run, "--num", 3)
    assert code == 2
    assert f"{piece.name}: is damaged" in errors


def test_only_one_process_speaks_and_logs(runs, recipe, tmp_path):
    said = run_together(2, tmp_path, *arguments(recipe, "run", "train.steps=2"))
    assert "run directory: run" in said[0]
    assert "run directory" not in said[1]
    assert "step" not in said[1]


# Streamed shards

EPOCH = 10  # steps of 150 samples: 1,500 digits
STOP = 15  # amid an epoch


@contextmanager
def noting():
    """Which samples of the split each batch is made of goes to a file of this process's."""
    batch, seen = Preparation.batch, Path(f"{os.environ['SEEN']}-{os.environ['RANK']}.jsonl")

    def made(self, number, samples, indices):
        with seen.open("a") as file:
            file.write(json.dumps([number, indices]) + "\n")
        return batch(self, number, samples, indices)

    Preparation.batch = made
    yield


def streamed(count, folder, name, run, *more):
    """Two epochs on packed digits; the samples of each global batch by its number, and what was said."""
    settings = (f"train.steps={2 * EPOCH}", "train.checkpoint_every=5", "train.keep_every=5", "train.grid_every=0")
    settings += ("data.batch_size=150", "sample.num=2", "modalities.label.dropout=0")
    options = [option for setting in settings for option in ("--set", setting)]
    command, environment = ("run", "recipe.toml", "--out", run, *options, *more), {"SEEN": str(folder / name)}
    codes, said = Processes(count, folder, *command, environment=environment, inside=noting).finish()
    assert codes == [0] * count, said
    seen = {}
    for rank in range(count):
        for line in (folder / f"{name}-{rank}.jsonl").read_text().splitlines():
            number, indices = json.loads(line)
            assert len(indices) == 150 // count
            seen.setdefault(number, []).extend(indices)
    return seen, said


def of_epoch(seen, epoch):
    return sorted(index for number in range(epoch * EPOCH + 1, (epoch + 1) * EPOCH + 1) for index in seen[number])


@pytest.fixture(scope="module")
def streams(folder, recipe):
    """Digits in six shards, and a run on them of each number of processes."""
    run_together(1, folder, "data", "pack", "tiny.toml", "--out", "packed", "--shard-size", "250")
    shutil.copy(folder / "packed" / "recipe.toml", folder / "recipe.toml")
    return {count: streamed(count, folder, f"seen-{count}", f"streamed-{count}") for count in (1, 2)}


@pytest.mark.parametrize("count", [1, 2])
def test_processes_share_samples_of_shards_or_leave_some_out_in_an_epoch(streams, count):
    seen, said = streams[count]
    assert seen.keys() == set(range(1, 2 * EPOCH + 1))
    for epoch in range(2):
        assert of_epoch(seen, epoch) == list(range(1500))
    assert "some samples come" not in "".join(said)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_resume_amid_an_epoch_repeats_samples_of_shards_or_loses_them(streams, folder, before, after):
    name = f"resumed-{before}-{after}"
    without_later_steps(folder / f"streamed-{before}", STOP, folder / name)
    whole, (rest, _) = streams[before][0], streamed(after, folder, f"{name}-seen", name, "--resume")
    assert rest.keys() == set(range(STOP + 1, 2 * EPOCH + 1))
    assert rest == {number: whole[number] for number in rest}
    weights = f"checkpoints/step-{2 * EPOCH}/model.safetensors"
    mine, its = (tensors(folder / run, weights) for run in (f"streamed-{before}", name))
    for key, tensor in mine.items():
        error, size = ((x.double()).norm() for x in (its[key] - tensor, tensor))
        assert error <= (0 if before == after else 10 * TOLERANCE * size + 1e-4), key


def spoil(shard):
    """The first picture of a shard is not what it was."""
    with tarfile.open(shard) as file:
        member = next(one for one in file if one.name.endswith(".png"))
    data = bytearray(shard.read_bytes())
    data[member.offset_data + member.size // 2] ^= 0xFF
    shard.write_bytes(data)


def test_processes_with_unequal_shards_are_not_told_so_or_one_s_damage_is_forgotten_by_all(recipe, tmp_path):
    run_together(1, tmp_path, "data", "pack", str(recipe), "--out", "unequal", "--shard-size", "300")
    for number in (1, 3):  # process 1 has these, and begins with one of them
        spoil(tmp_path / "unequal" / "train" / f"{number:06d}.tar")
    command = arguments("unequal/recipe.toml", "run", "train.steps=1", "train.grid_every=0", "data.shuffle_buffer=1")
    said = run_together(2, tmp_path, *command)
    assert "whose shards hold 600 to 900 samples" in said[0]
    assert "samples come" not in said[1]
    assert ["left out" in one for one in said] == [False, True]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-1" / "state.json").read_text())
    assert len(state["loader"]["damaged"]) == 1  # found by process 1, saved by process 0


def test_when_a_process_dies_the_others_hang_or_the_run_is_lost(recipe, tmp_path):
    long = ("train.steps=500", "train.checkpoint_every=3", "train.grid_every=0")
    together = Processes(2, tmp_path, *arguments(recipe, "run", *long))
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 5)
    together.all[1].send_signal(signal.SIGKILL)
    codes, said = together.finish()
    assert codes == [2, -signal.SIGKILL]
    assert "process 0 of 2: another process of this run has ended" in said[0]
    assert "--resume" in said[0]
    assert "Traceback" not in said[0]
    again = Processes(2, tmp_path, *arguments(recipe, "run", *long), "--resume")
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 12)
    again.all[1].send_signal(signal.SIGTERM)  # as a scheduler may tell one machine alone
    codes, said = again.finish()
    assert codes == [130, 130]
    assert "going on after step" in said[0]
    saved = int((tmp_path / "run/checkpoints/latest").read_text().strip().removeprefix("step-"))
    assert metrics(tmp_path / "run")[-1]["step"] == saved


def test_a_batch_that_the_processes_do_not_divide_is_not_refused(recipe, registry, tmp_path):
    codes, said = Processes(2, tmp_path, *arguments(recipe, "run", "data.batch_size=18")).finish()
    assert codes[0] == 2
    assert "data.batch_size = 18" in said[0]
    assert "a multiple of 4" in said[0]
    assert not (tmp_path / "run").exists()


def test_processes_that_would_wait_for_each_other_for_ever_are_not_refused(recipe, registry):
    loaded = load_recipe(recipe, registry, ("train.parallel=fsdp2", "train.impute_from=1"))
    check_parallel(loaded, ALONE)
    with pytest.raises(UserError, match='use "ddp"'):
        check_parallel(loaded, World(0, 2))


def test_guidance_that_needs_gradients_of_parts_is_not_refused(recipe, registry):
    loaded = load_recipe(recipe, registry, ("train.parallel=fsdp2", "sample.guidance=1"))
    check_parallel(loaded, ALONE)
    with pytest.raises(UserError, match="--guidance of mtdiff sample"):
        check_parallel(loaded, World(0, 2))


def test_a_parameter_that_cannot_be_shared_out_is_not_named(recipe, registry):
    loaded = load_recipe(recipe, registry, ("train.parallel=fsdp2",))
    model = torch.nn.Linear(2, 2)
    check_shardable(model, loaded, World(0, 2))
    model.width = torch.nn.Parameter(torch.zeros(()))
    check_shardable(model, loaded, ALONE)
    with pytest.raises(UserError, match="'width'"):
        check_shardable(model, loaded, World(0, 2))


def test_torchrun_does_not_start_it_or_a_scheduler_s_stop_is_not_passed_on(recipe, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mtdiff"]
    long = ("train.steps=500", "train.checkpoint_every=500", "train.grid_every=0")
    launcher = subprocess.Popen(
        [*torchrun, *arguments(recipe, "run", *long)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 3)
    launcher.terminate()
    _, said = launcher.communicate(timeout=PATIENCE)
    assert "the checkpoint is saved" in said
    saved = int((tmp_path / "run/checkpoints/latest").read_text().strip().removeprefix("step-"))
    assert saved == metrics(tmp_path / "run")[-1]["step"]
    assert json.loads((tmp_path / "run/environment.json").read_text())["hardware"]["processes"] == 2


@pytest.mark.parametrize(("way", "count", "messages"), [("ddp", 3, 1), ("fsdp2", 2, 3)])
def test_gradients_are_sent_in_vain_or_the_first_step_of_a_process_rounds_otherwise(way, count, messages):
    """Parts of a step but the last send nothing; a run that goes on computes what it would have computed.

    Sums of two numbers are the same in any order: with DDP it takes three processes to see one.
    """
    found = {}
    codes, said = Processes(count, ".", way, 3, command=shared_gradients.main).finish(found)
    assert codes == [0] * count, said
    for one in found.values():
        assert one["messages"] == [[0, 0, messages]] * 3  # a bucket, or each block
        assert len(one["gradients"]) == 6
        assert one["differ"] == []


def test_compiled_steps_of_two_processes_are_other_steps(recipe, tmp_path, runs):
    compiled = Launcher(recipe, (*SETTINGS, "train.compile=true"), count=2, inside=eager_compiler)
    for text in compiled.finish(tmp_path / "run"):
        assert text.splitlines()[-1] == "graphs: 1", text
    assert_same_run(runs["ddp"], tmp_path / "run")


@pytest.mark.parametrize(("key", "instead"), [("train", "train.compile"), ("sample", "--compile of mtdiff sample")])
def test_a_network_that_is_compiled_in_pieces_is_not_refused(recipe, registry, key, instead):
    loaded = load_recipe(recipe, registry, ("train.parallel=fsdp2", f"{key}.compile=true"))
    check_parallel(loaded, ALONE)
    with pytest.raises(UserError, match=instead):
        check_parallel(loaded, World(0, 2))


def tell(file):
    """What processes can tell each other, as JSON; that they come one after another, into a file."""
    with joined(torch.device("cpu")) as world:
        tensors = {"b": torch.full((2,), float(world.rank)), "a": torch.full((3,), 7.0 + world.rank)}
        world.same_tensors(tensors)
        with world.main_first(), Path(file).open("a") as order:
            order.write(str(world.rank))
        one, half = world.rank + 1, torch.tensor(0.5 + world.rank, dtype=torch.float64)
        counts = {"b": torch.tensor([[one, 2], [3, 4]]), "half": half, "a": torch.tensor(2**24 + one)}
        with CommDebugMode() as comm:
            sums = world.add_all(counts)
        told = {
            "made": world.from_main(lambda: f"by {world.rank}"),
            "same": [tensors["a"].tolist(), tensors["b"].tolist()],
            "sum": world.add(torch.tensor(world.rank + 1)).item(),
            "sums": {name: [x.tolist(), str(x.dtype)] for name, x in sums.items()},
            "messages": sum(comm.get_comm_counts().values()),
            "any": [world.any(world.rank == 1), world.any(False)],
            "joined": world.join(torch.tensor([world.rank, 10 + world.rank])).tolist(),
            "gathered": world.gather([world.rank] * world.rank),
        }
        print(json.dumps(told))


def test_processes_tell_each_other_something_else(tmp_path):
    order, outputs = tmp_path / "order", {}
    codes, errors = Processes(2, tmp_path, order, command=tell).finish(outputs)
    assert codes == [0, 0], errors
    expected = {
        "made": "by 0",
        "same": [[7.0, 7.0, 7.0], [0.0, 0.0]],
        "sum": 3,
        "sums": {
            "b": [[[3, 4], [6, 8]], "torch.int64"],
            "half": [2.0, "torch.float64"],
            "a": [2**25 + 3, "torch.int64"],
        },
        "messages": 2,  # one for each type
        "any": [True, False],
        "joined": [0, 10, 1, 11],
        "gathered": [[], [1]],
    }
    assert outputs == {0: expected, 1: expected}
    assert order.read_text() == "01"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"WORLD_SIZE": "two"},
            "environment variable WORLD_SIZE: 'two' is no whole number from 0 up\n  let torchrun set it, or unset it",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}, "unset WORLD_SIZE"),
    ],
)
def test_an_environment_that_no_launcher_made_is_taken_for_a_fault_of_ours(
    mtdiff, tiny, tmp_path, monkeypatch, environment, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "MEETING", timedelta(seconds=1))  # nobody else comes
    code, _, errors = mtdiff("run", tiny, "--out", "run")
    assert code == 2
    assert said in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("patience", "waits"), [("5", 5), ("3600", 600)])
def test_processes_wait_longer_for_each_other_to_start_than_they_may(mtdiff, tiny, monkeypatch, patience, waits):
    def nobody(url, timeout):
        raise ValueError(f"waited for {timeout.total_seconds():.0f} seconds")

    monkeypatch.setattr(world, "rendezvous", nobody)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MTDIFF_PATIENCE", patience)
    code, _, errors = mtdiff("run", tiny, "--out", "run")
    assert code == 2
    assert f"waited for {waits} seconds" in errors


def test_rows_of_all_processes_are_not_the_batch():
    for size in (1, 2, 4):
        rows = [i for rank in range(size) for i in range(8)[World(rank, size).rows(8)]]
        assert rows == list(range(8))
    assert ALONE.gather([1]) == [[1]]
    count = torch.tensor(1)
    assert ALONE.add_all({"it": count})["it"] is count
