"""Parts put together: one safetensors file, and the table that reads a folder."""

import io
import json
import tomllib

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtdiff_core import FieldSpec, Modality, component
from mtdiff_core.files import tensor_file
from mtdiff_core.randomness import generator
from mtdiff_core.recipe.builder import MODALITY_NAME
from mtdiff_core.sampling_job.formats import PARTS, DataFolder, data_table, join_tensor_files, remove_parts
from mtdiff_image import Image

DTYPES = (torch.float32, torch.int64, torch.uint8, torch.bool, torch.bfloat16, torch.float64)


@component
class Numbers(Modality):
    """Numbers as they are: the least that a modality is."""

    def check(self, spec):
        pass

    def encoder(self, slot):
        raise NotImplementedError

    def decoder(self, slot, features):
        raise NotImplementedError

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values * 2

    def parse(self, text):
        raise NotImplementedError


def batch(number, rows, columns):
    random = generator(number)
    return {
        name: (torch.rand((rows, *shape), generator=random) * 100).to(dtype) for name, (shape, dtype) in columns.items()
    }


SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
COLUMNS = st.dictionaries(
    st.sampled_from(["a", "zeta", "größe", 'quo"te']), st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1
)


@given(columns=COLUMNS, rows=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_joined_files_differ_from_one_file_of_joined_tensors(tmp_path_factory, columns, rows):
    folder, about = tmp_path_factory.mktemp("parts"), {"who": 'a "name"', "größe": [1, 2]}
    batches = [batch(number, count, columns) for number, count in enumerate(rows)]
    parts = [folder / str(number) for number in range(len(rows))]
    for part, tensors in zip(parts, batches, strict=True):
        part.write_bytes(tensor_file(tensors, about))
    joined = io.BytesIO()
    join_tensor_files(parts, joined)
    whole = {name: torch.cat([tensors[name] for tensors in batches]) for name in columns}
    assert joined.getvalue() == tensor_file(whole, about)


@pytest.mark.parametrize(("shape", "cells"), [((), [[2.0], [4.0]]), ((1, 2), [[2.0, 4.0], [6.0, 8.0]])])
def test_a_modality_that_says_nothing_of_files_is_not_written_as_flat_lists(tmp_path, shape, cells):
    numbers = Numbers().bind(FieldSpec(shape=shape, dtype="float32"))
    values = torch.arange(1.0, 2 * torch.Size(shape).numel() + 1).reshape(2, *shape)
    folder = DataFolder(tmp_path, {"depth": numbers}, {})
    (tmp_path / PARTS).mkdir()
    folder.write_part(0, 0, {"depth": values})
    folder.finish([folder.part(0)])
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert rows == [{"depth": cell} for cell in cells]
    assert tomllib.loads((tmp_path / "dataset.toml").read_text())["data"]["vectors"] == ["depth"]


def test_files_of_a_modality_go_with_the_parts_or_one_can_be_called_as_they_are(tmp_path):
    picture = Image().bind(FieldSpec(shape=(1, 4, 4), dtype="uint8"))
    folder = DataFolder(tmp_path, {"parts": picture}, {})
    folder.part(0).parent.mkdir()
    folder.write_part(0, 0, {"parts": torch.zeros(2, 1, 4, 4)})
    folder.finish([folder.part(0)])
    remove_parts(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(tmp_path / cell).is_file() for row in rows for cell in row.values()] == [True, True]
    assert not folder.part(0).parent.exists()
    assert not MODALITY_NAME.fullmatch(PARTS)


@component
class Sized(Numbers):
    """Numbers that want a table of their own size."""

    size: int = attrs.field(default=8)

    def table_options(self):
        return {"size": self.size}


def test_options_that_two_modalities_set_differently_pass_in_silence(tmp_path):
    text = data_table(
        tmp_path / "manifest.jsonl", {"one": Sized(size=8), "two": Sized(size=16), "three": Sized(size=8)}
    )
    assert "# size is another for two: 16\n" in text
    assert "three:" not in text
    assert tomllib.loads(text)["data"] == {
        "dataset": "table", "path": str(tmp_path / "manifest.jsonl"), "vectors": ["one", "two", "three"], "size": 8,
    }  # fmt: skip
