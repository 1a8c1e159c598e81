"""The workshop: where the cache lies, and what counts as the same data."""

from pathlib import Path

import pytest
import torch

from mtdiff_core import FieldSpec, Workshop
from mtdiff_core.interfaces.workshop import cache_folder, content_hash


class Rows:
    """Samples from a list of dicts."""

    def __init__(self, *rows, dtype="int64"):
        self.rows, self.reads = rows, 0
        self.fields = {name: FieldSpec(shape=(), dtype=dtype) for name in ("a", "b")}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.reads += 1
        return {name: torch.tensor(value) for name, value in self.rows[index].items()}


BASE = content_hash(Rows({"a": 1}, {"a": 2}), "a")


def test_equal_data_read_twice_has_another_hash():
    assert content_hash(Rows({"a": 1, "b": 9}, {"a": 2}), "a") == BASE


@pytest.mark.parametrize(
    "other",
    [
        Rows({"a": 1}, {"a": 3}),
        Rows({"a": 2}, {"a": 1}),
        Rows({"a": 1}),
        Rows({"a": 1}, {"a": 2}, {"b": 0}),
        Rows({"a": 1}, {"b": 0}, {"a": 2}),
        Rows({"a": 1}, {"a": 2}, dtype="float32"),
    ],
    ids=["value", "order", "fewer", "one that lacks it", "lacking amid", "kind"],
)
def test_other_data_has_the_same_hash(other):
    assert content_hash(other, "a") != BASE


def test_a_workshop_reads_the_data_again_for_every_question():
    samples = Rows({"a": 1}, {"a": 2})
    workshop = Workshop(torch.device("cpu"), seed=0)
    assert {workshop.content_hash(samples, "a") for _ in range(3)} == {BASE}
    assert samples.reads == 2


def test_the_cache_is_not_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert cache_folder() == tmp_path == Workshop(torch.device("cpu"), seed=0).cache
    monkeypatch.delenv("MTDIFF_CACHE")
    assert cache_folder() == Path("/other/mtdiff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mtdiff"
