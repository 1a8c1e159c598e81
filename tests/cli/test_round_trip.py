"""Samples as data: what a run gives is taken from its data, written as a data set, and trained on."""

import json
import tomllib

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

RECIPE = {
    "name": "all",
    "data": {"dataset": "scenes", "size": 16, "train": 24, "test": 6, "batch_size": 8},
    "space": {"anchor": "image", "aggregator": "blocks"},
    "modalities": {
        "image": {"type": "image"},
        "label": {"type": "label"},
        "segmentation": {"type": "segmentation"},
        "representation": {"type": "representation", "field": "image", "steps": 2, "dimensions": 4, "width": 8},
    },
    "backbone": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_channels": 8},
    "train": {"steps": 2, "grid_every": 0},
    "sample": {"steps": 2, "num": 2, "directions": ["joint"]},
}


@pytest.fixture
def run(mtdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "all.toml").write_text(tomli_w.dumps(RECIPE))
    code, _, errors = mtdiff("run", "all.toml", "--out", "run")
    assert code == 0, errors
    return tmp_path / "run"


def test_a_representation_is_not_taken_from_the_run_s_own_data(run, mtdiff, tmp_path):
    given = ["--given", "representation=@test", "--given", "image=@test"]
    code, _, errors = mtdiff("sample", "run", *given, "--num", 5, "--out", "seen")
    assert code == 0, errors
    seen = load_file(tmp_path / "seen" / "samples.safetensors")["representation"]
    assert seen.shape == (5, 4)
    assert seen.std(dim=0).min() > 0
    again, _, _ = mtdiff("sample", "run", "--given", "representation=@test", "--num", 5, "--out", "again")
    assert again == 0
    torch.testing.assert_close(load_file(tmp_path / "again" / "samples.safetensors")["representation"], seen)


def test_samples_as_a_folder_cannot_be_trained_on(run, mtdiff, tmp_path):
    code, _, errors = mtdiff("sample", "run", "--given", "label=@train", "--format", "folder", "--out", "made")
    assert code == 0, errors
    rows = [json.loads(line) for line in (tmp_path / "made" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == RECIPE["data"]["train"]
    modalities = {name: RECIPE["modalities"][name] for name in ("image", "label", "segmentation")}
    data = tomllib.loads((tmp_path / "made" / "dataset.toml").read_text())["data"]
    tables = {**RECIPE, "name": "second", "data": {**data, "batch_size": 8}, "modalities": modalities}
    (tmp_path / "second.toml").write_text(tomli_w.dumps(tables))
    code, _, errors = mtdiff("run", "second.toml", "--out", "second")
    assert code == 0, errors
    assert set(load_file(tmp_path / "second" / "samples" / "samples.safetensors")) == set(modalities)
