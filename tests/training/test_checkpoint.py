"""Checkpoints: whole or absent, verified when read, and each part with its own meaning."""

import errno
import json
import shutil

import pytest
import safetensors.torch
import torch

from mtdiff_core.errors import UserError
from mtdiff_core.training import checkpoint as module
from mtdiff_core.training.checkpoint import (
    PARTS,
    find_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
)

FILES = [f"{part}.safetensors" for part in PARTS]


def parts(seed=0):
    """Three parts of one set of names and shapes, as weights and their average are."""
    random = torch.Generator().manual_seed(seed)
    return {part: {"layer.weight": torch.randn(3, 4, generator=random), "scale": torch.ones(())} for part in PARTS}


def save(folder, step, keep=3, **state):
    return save_checkpoint(folder, parts(step), {"step": step, **state}, keep)


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_every_part_and_the_state_come_back_as_they_were_saved(tmp_path):
    save(tmp_path, 7, loader={"number": 9}, skipped=2)
    found = find_checkpoint(tmp_path)
    assert found.step == 7
    assert found.state["loader"] == {"number": 9}
    assert found.state["skipped"] == 2
    for part, tensors in parts(7).items():
        loaded = found.load(part)
        assert loaded.keys() == tensors.keys()
        assert all(loaded[name].equal(tensors[name]) for name in tensors)


def test_a_checkpoint_is_four_files_and_latest_names_it(tmp_path):
    folder = save(tmp_path, 7)
    assert {path.name for path in folder.iterdir()} == {*FILES, "state.json"}
    assert (tmp_path / "latest").read_text().strip() == folder.name == "step-7"
    assert {path.name for path in tmp_path.iterdir()} == {"step-7", "latest"}


def test_tensors_of_any_memory_layout_are_saved_with_their_values(tmp_path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path, {part: {"w": weight} for part in PARTS}, {"step": 1}, keep=1)
    assert find_checkpoint(tmp_path).load("model")["w"].equal(weight)


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_is_the_one_of_the_largest_step_and_not_of_the_last_name(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert find_checkpoint(tmp_path).step == 100
    shutil.rmtree(tmp_path / "step-100")
    assert find_checkpoint(tmp_path).step == 10


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_so_many_of_the_newest_are_kept(tmp_path, keep):
    for step in range(8, 12):
        save(tmp_path, step, keep=keep)
    assert steps(tmp_path) == list(range(8, 12))[-keep:]
    assert (tmp_path / "latest").read_text() == "step-11\n"


def test_saving_one_step_again_replaces_it(tmp_path):
    save(tmp_path, 5, skipped=0)
    save(tmp_path, 5, skipped=1)
    assert steps(tmp_path) == [5]
    assert find_checkpoint(tmp_path).state["skipped"] == 1


def crash_at(monkeypatch, call, error):
    """Let the n-th file that a checkpoint writes fail."""
    real, calls = module._write_synced, []

    def write(path, data):
        calls.append(path)
        if len(calls) == call:
            path.write_bytes(data[: len(data) // 2])
            raise error
        real(path, data)

    monkeypatch.setattr(module, "_write_synced", write)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_crash_amid_saving_leaves_the_one_before_in_force_and_nothing_half_done(tmp_path, monkeypatch, call, error):
    save(tmp_path, 1, keep=1)
    crash_at(monkeypatch, call, error)
    with pytest.raises(type(error)):
        save(tmp_path, 2, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "latest"}
    assert find_checkpoint(tmp_path).step == 1
    assert all(find_checkpoint(tmp_path).load(part) for part in PARTS)
    assert (tmp_path / "latest").read_text() == "step-1\n"


def test_a_full_disk_is_reported_as_such_and_leaves_the_one_before_in_force(tmp_path, monkeypatch):
    save(tmp_path, 1)
    crash_at(monkeypatch, 2, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError, match="cannot save the checkpoint of step 2: the disk is full"):
        save(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "latest"}


def test_what_a_killed_process_left_half_done_is_neither_read_nor_in_the_way(tmp_path):
    save(tmp_path, 1)
    half_done = tmp_path / ".step-2.partial"
    half_done.mkdir()
    (half_done / "model.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path).step == 1
    save(tmp_path, 2)
    assert find_checkpoint(tmp_path).step == 2
    assert not half_done.exists()


def test_the_files_are_on_disk_before_the_checkpoint_gets_its_name(tmp_path, monkeypatch):
    synced = []
    real = module.os.fsync
    monkeypatch.setattr(
        module.os, "fsync", lambda handle: (synced.append((tmp_path / "step-1").exists()), real(handle))
    )
    save(tmp_path, 1)
    assert synced[:4] == [False] * 4
    assert True in synced, "the folder was not synced after the rename"


def truncate(data):
    return data[: len(data) // 2]


def flip_last_bit(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def empty(data):
    return b""


@pytest.mark.parametrize("spoil", [truncate, flip_last_bit, empty])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_what_was_saved_is_refused_and_the_others_are_read(tmp_path, part, spoil):
    folder = save(tmp_path, 3)
    file = folder / f"{part}.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{part}\.safetensors: is damaged(.|\n)*of steps 3"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match=rf"{part}\.safetensors: is damaged"):
        read_checkpoint(folder).load(part)
    others = [other for other in PARTS if other != part]
    found = find_checkpoint(tmp_path, parts=others)
    assert all(found.load(other) for other in others)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_is_reported(tmp_path, part):
    (save(tmp_path, 3) / f"{part}.safetensors").unlink()
    with pytest.raises(UserError, match=rf"{part}\.safetensors: is damaged: No such file"):
        find_checkpoint(tmp_path)


def edit_step(data):
    return data.replace(b'"step": 3', b'"step": 4')


def add_a_key(data):
    return json.dumps({**json.loads(data), "skipped": 9}).encode()


def no_object(data):
    return b"[]"


@pytest.mark.parametrize("spoil", [truncate, empty, edit_step, add_a_key, no_object, lambda data: data + b" "])
def test_a_state_that_is_not_what_was_saved_is_refused(tmp_path, spoil):
    file = save(tmp_path, 3) / "state.json"
    spoiled = spoil(file.read_bytes())
    assert spoiled != file.read_bytes()
    file.write_bytes(spoiled)
    with pytest.raises(UserError, match=r"state\.json: is damaged"):
        find_checkpoint(tmp_path)


def test_a_state_that_is_missing_is_reported(tmp_path):
    (save(tmp_path, 3) / "state.json").unlink()
    with pytest.raises(UserError, match=r"state\.json: is damaged: No such file"):
        find_checkpoint(tmp_path)


def test_weights_and_their_average_swapped_on_disk_are_refused(tmp_path):
    folder = save(tmp_path, 3)
    (folder / "model.safetensors").rename(folder / "aside")
    (folder / "ema.safetensors").rename(folder / "model.safetensors")
    (folder / "aside").rename(folder / "ema.safetensors")
    for part in ("model", "ema"):
        with pytest.raises(UserError, match="is damaged"):
            read_checkpoint(folder).load(part)


@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_the_newest_whole_one_is_not_used_where_newer_ones_are_damaged(tmp_path, name, caplog):
    for step in (3, 4, 5):
        save(tmp_path, step)
    file = tmp_path / "step-4" / name
    file.write_bytes(truncate(file.read_bytes()))
    (tmp_path / "step-5" / name).unlink()
    assert find_checkpoint(tmp_path).step == 3
    (message,) = caplog.messages
    assert f"step-5/{name}: is damaged" in message
    assert "step 3 is used" in message
    with pytest.raises(UserError, match=r"step-4.*\n.*steps 3, 4, 5"):  # asked for by name, nothing takes its place
        find_checkpoint(tmp_path, (4).__eq__)


def test_a_save_after_a_damaged_newer_one_removes_what_was_just_saved(tmp_path):
    for step in (2, 4):
        save(tmp_path, step, keep=2)
    (tmp_path / "step-4" / "state.json").unlink()
    save(tmp_path, 3, keep=1)
    assert find_checkpoint(tmp_path).step == 3
    assert steps(tmp_path) == [3, 4]
    save(tmp_path, 4, keep=1)  # whole again
    assert steps(tmp_path) == [4]
    assert find_checkpoint(tmp_path).step == 4


def test_one_that_is_thinned_while_it_is_read_is_called_damaged(tmp_path, monkeypatch, caplog):
    save(tmp_path, 3)
    verify = module.Checkpoint.verify

    def late(checkpoint, parts):
        if checkpoint.step == 3:
            save(tmp_path, 4, keep=1)
        verify(checkpoint, parts)

    monkeypatch.setattr(module.Checkpoint, "verify", late)
    assert find_checkpoint(tmp_path).step == 4
    assert not caplog.messages


def test_one_that_cannot_be_read_now_is_passed_over_as_damaged(tmp_path):
    save(tmp_path, 3)
    file = save(tmp_path, 4) / "model.safetensors"
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors: cannot read the checkpoint: Is a directory"):
        find_checkpoint(tmp_path)


def test_a_damaged_older_one_is_looked_at(tmp_path, caplog):
    (save(tmp_path, 3) / "state.json").unlink()
    save(tmp_path, 4)
    assert find_checkpoint(tmp_path).step == 4
    assert not caplog.messages


def test_a_part_of_another_checkpoint_is_refused(tmp_path):
    one, other = save(tmp_path, 3), save(tmp_path, 4)
    shutil.copy(one / "model.safetensors", other / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(other).load("model")


def test_a_file_says_by_itself_which_part_of_which_step_it_is(tmp_path):
    with safetensors.safe_open(save(tmp_path, 3) / "ema.safetensors", "pt") as file:
        assert json.loads(file.metadata()["mtdiff"]) == {"part": "ema", "step": 3}


def test_equal_tensors_give_equal_files(tmp_path):
    # safetensors writes metadata of several keys in random order, so that one comparison could pass by chance
    written = {(save(tmp_path / str(i), 3) / "ema.safetensors").read_bytes() for i in range(10)}
    assert len(written) == 1


def test_another_format_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 99)
    folder = save(tmp_path, 3)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 99; this version reads format 2"):
        read_checkpoint(folder)


def test_weights_that_do_not_fit_the_model_are_reported_without_torch_s_list(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(UserError, match="does not fit the model of the run's recipe"):
        find_checkpoint(tmp_path).restore("model", torch.nn.Linear(5, 5))


def network(seed=0):
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GroupNorm(1, 3), torch.nn.Conv2d(3, 1, 2))
    return layers.to(memory_format=torch.channels_last)


def train(model, optimizer, seeds):
    for seed in seeds:
        x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_exactly_where_it_was_saved(tmp_path, fused):
    def adam(model):
        return torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)

    whole = network()
    whole_optimizer = adam(whole)
    train(whole, whole_optimizer, range(3))
    save_checkpoint(
        tmp_path,
        {"model": whole.state_dict(), "ema": {}, "optimizer": optimizer_tensors(whole_optimizer, whole)},
        {"step": 3},
        keep=1,
    )
    train(whole, whole_optimizer, range(3, 6))

    resumed = network(seed=1)
    resumed_optimizer = adam(resumed)
    found = find_checkpoint(tmp_path)
    resumed.load_state_dict(found.load("model"))
    load_optimizer_tensors(resumed_optimizer, resumed, found)
    train(resumed, resumed_optimizer, range(3, 6))

    for name, weight in whole.state_dict().items():
        assert weight.equal(resumed.state_dict()[name]), f"{name} went another way"
    before, after = optimizer_tensors(whole_optimizer, whole), optimizer_tensors(resumed_optimizer, resumed)
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)


def test_the_optimizer_s_tensors_are_named_after_the_parameters():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, [0])
    names = {f"{name}:{entry}" for name, _ in model.named_parameters() for entry in ("step", "exp_avg", "exp_avg_sq")}
    assert optimizer_tensors(optimizer, model).keys() == names


def test_a_checkpoint_that_is_to_stay_is_thinned_out(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save_checkpoint(tmp_path, parts(step), {"step": step}, keep=1, stays=[2, 4].__contains__)
    assert steps(tmp_path) == [2, 4, 5]
    assert find_checkpoint(tmp_path).step == 5
    assert find_checkpoint(tmp_path, (2).__eq__).step == 2
    assert find_checkpoint(tmp_path, (3).__eq__) is None
