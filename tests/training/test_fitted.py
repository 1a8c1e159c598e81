"""What a modality learns before training: saved with the model, and never learnt again."""

import pytest
import safetensors.torch
import torch

from mtdiff_core.assembly import states_from_tensors
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.loading import load_recipe
from mtdiff_core.training.checkpoint import find_checkpoint
from mtdiff_core.training.run import load_trained_model, run_recipe
from mtdiff_representation import Representation
from tests.conftest import TINY

CPU = torch.device("cpu")
REPRESENTATION = """
[modalities.meaning]
type = "representation"
field = "image"
dimensions = 6
steps = 2
width = 4
"""


@pytest.fixture
def run(quiet_registry, tmp_path, monkeypatch):
    """Run the tiny recipe with a self-trained representation; gives the run's folder."""
    (tmp_path / "tiny.toml").write_text(TINY + REPRESENTATION)
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))

    def call(folder="run", resume=False):
        recipe = load_recipe(tmp_path / "tiny.toml", quiet_registry)
        run_recipe(recipe, quiet_registry, CPU, tmp_path / folder, resume, lambda *_: lambda _: None)
        return tmp_path / folder

    return call


def forbid_learning(monkeypatch):
    monkeypatch.setattr(Representation, "fit", lambda *_: pytest.fail("learnt again"))


def test_what_was_learnt_is_missing_from_a_checkpoint(run):
    folder = run() / "checkpoints"
    for step in ("step-2", "step-4"):
        saved = safetensors.torch.load_file(folder / step / "fitted.safetensors")
        assert saved["meaning/whitening.projection"].shape == (16, 6)
        assert any(name.startswith("meaning/network.") for name in saved)
    assert states_from_tensors(find_checkpoint(folder).load("fitted")).keys() == {"meaning"}


def test_a_trained_model_needs_its_data_or_learns_again(run, quiet_registry, tmp_path, monkeypatch):
    folder = run()
    samples = safetensors.torch.load_file(folder / "samples" / "samples.safetensors")
    assert samples["meaning"].shape[1:] == (6,)
    forbid_learning(monkeypatch)
    monkeypatch.setattr(
        quiet_registry.get("dataset", "digits").cls, "open", lambda *_: pytest.fail("the data was opened")
    )
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "empty"))
    modality = load_trained_model(folder, quiet_registry, CPU).experiment.sources["meaning"].modality
    given = modality.parse(str(folder / "samples" / "grid.png"))
    assert given.shape == (1, 6)
    assert given.isfinite().all()


def test_a_resumed_run_learns_again_or_goes_another_way(run, tmp_path, monkeypatch):
    whole, stopped = run("whole"), run("stopped")
    newest = stopped / "checkpoints" / "step-4"
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    forbid_learning(monkeypatch)
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "empty"))  # features are computed again, by the saved network
    run("stopped", resume=True)
    for part in ("model", "ema", "optimizer", "fitted"):
        one, other = (find_checkpoint(folder / "checkpoints").load(part) for folder in (whole, stopped))
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one), part


def test_a_run_in_which_nothing_is_learnt_saves_an_empty_part(run, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    checkpoint = find_checkpoint(run() / "checkpoints")
    assert not (checkpoint.path / "fitted.safetensors").exists()
    assert checkpoint.load("fitted") == {}


def test_a_folder_that_is_in_use_is_refused_only_after_learning(run, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    forbid_learning(monkeypatch)
    with pytest.raises(UserError, match="is not an empty directory"):
        run()


def test_a_corrupt_cache_changes_the_weights_or_passes_without_a_word(mtdiff, tmp_path, monkeypatch, caplog):
    (tmp_path / "tiny.toml").write_text(TINY + REPRESENTATION)
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    assert mtdiff("run", "tiny.toml", "--out", "first")[0] == 0
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert {path.name.split("-")[0] for path in files} == {"features", "network"}
    for number, file in enumerate(files):
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 64]) + whole[-1:])
        caplog.clear()
        code, _, errors = mtdiff("run", "tiny.toml", "--out", f"again-{number}")
        assert code == 0, errors
        assert caplog.messages == [f"{file} is not what was kept there, and is computed again"]
        assert file.read_bytes() == whole
        for part in ("model", "ema", "optimizer", "fitted"):
            name = f"checkpoints/step-4/{part}.safetensors"
            assert (tmp_path / f"again-{number}" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), part
