"""A disk that fills up costs what was being written, and nothing that was there before."""

import errno
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtdiff_core.training import checkpoint
from tests.training.test_resume import assert_same_run


def test_a_disk_that_fills_up_while_a_checkpoint_is_saved_costs_that_checkpoint_only(
    tiny, mtdiff, monkeypatch, tmp_path
):
    sound = checkpoint._write_synced

    def write_until_full(path, data):
        if path.parent.name == ".step-4.partial" and path.name == "ema.safetensors":
            sound(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        sound(path, data)

    monkeypatch.setattr(checkpoint, "_write_synced", write_until_full)
    code, _, stderr = mtdiff("run", tiny, "--out", "out")
    assert code == 2
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert line == "error: out/checkpoints: cannot save the checkpoint of step 4: the disk is full"
    assert "make room and try again; what was saved before is whole" in stderr

    folder = tmp_path / "out" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-2"]
    kept = checkpoint.find_checkpoint(folder)
    assert kept.step == 2
    assert all(kept.load(part) for part in ("model", "ema", "optimizer"))

    monkeypatch.setattr(checkpoint, "_write_synced", sound)
    assert mtdiff("sample", "out", "--num", 1, "--steps", 1)[0] == 0
    code, stdout, _ = mtdiff("run", tiny, "--resume", "--out", "out")
    assert code == 0
    assert "4 steps" in stdout
    assert checkpoint.find_checkpoint(folder).step == 4


@pytest.mark.parametrize("name", ["samples.safetensors", "grid.png"])
def test_a_disk_that_fills_up_while_samples_are_written_leaves_no_half_file(
    trained, mtdiff, monkeypatch, tmp_path, name
):
    sound = Path.replace

    def fail(path, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sound(path, target)

    shutil.copytree(trained, "run")
    monkeypatch.setattr(Path, "replace", fail)
    code, _, stderr = mtdiff("sample", "run", "--num", 1, "--steps", 1, "--out", "new")
    assert code == 2
    assert f"error: new: cannot write {name}: the disk is full" in stderr
    assert not list((tmp_path / "new").glob(f"*{name}*"))
    assert not list((tmp_path / "new").glob(".*"))


class HalfWritten:
    """A file on a disk that has room for half of what is written next."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def curves(run):
    """What TensorBoard shows of a run, but its speed."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "images_per_second"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("file", "where", "what"),
    [
        ("metrics.jsonl", "out/metrics.jsonl", "cannot write the log"),
        ("events.out.tfevents.*", "out/tensorboard/events", "cannot write the curves"),
        ("averages/.step-3.partial/*", "out/averages", "cannot save the checkpoint of step 3"),
        ("checkpoints/.step-3.partial/ema.safetensors", "out/checkpoints", "cannot save the checkpoint of step 3"),
        ("checkpoints/.latest.partial", "out/checkpoints", "cannot write latest"),
    ],
)
def test_a_disk_that_fills_up_leaves_a_gap_or_another_run_behind(
    tiny, mtdiff, monkeypatch, tmp_path, caplog, file, where, what
):
    every = ("--set", "train.checkpoint_every=1")
    assert mtdiff("run", tiny, "--out", "whole", *every)[0] == 0
    sound, opened = Path.open, []

    def until_full(path, mode="r", *arguments, **options):
        found = sound(path, mode, *arguments, **options)
        if mode in ("a", "ab", "wb") and path.match(file):
            opened.append(path)
            return HalfWritten(found) if len(opened) >= 3 or ".step-3.partial" in str(path) else found
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", until_full)
        code, _, errors = mtdiff("run", tiny, "--out", "out", *every)
    assert code == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"{where}" in line
    assert f"{what}: the disk is full" in line
    assert "Traceback" not in errors
    assert caplog.messages == [], "left out, and the run went on"

    code, _, errors = mtdiff("run", tiny, "--out", "out", *every, "--resume")
    assert code == 0, errors
    assert "going on after step" in errors
    assert_same_run(tmp_path / "whole", tmp_path / "out", steps=4)
    assert curves(tmp_path / "out") == curves(tmp_path / "whole")
    for folder in ("checkpoints", "averages"):
        kept, found = (sorted(path.name for path in (tmp_path / run / folder).iterdir()) for run in ("whole", "out"))
        assert found == kept
