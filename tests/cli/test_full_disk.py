"""A disk that fills up costs what was being written, and nothing that was there before."""

import errno
import shutil
from pathlib import Path

import pytest

from mtdiff_core.training import checkpoint


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
