"""Tables: every kind of column in both formats, what is missing, splits, and manifests that cannot be read."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from mtdiff_core import MissingSplitError, UserError
from mtdiff_datasets import Table
from mtdiff_datasets.manifest import Row
from mtdiff_datasets.rows import classes_of, held_out

SIZE = 8
COLUMNS = {
    "pictures": ("image",), "maps": ("regions",), "labels": ("kind",), "vectors": ("pose",),
    "map_classes": ("sky", "sea", "land"),
}  # fmt: skip


def save(path, shade=0, indices=None, mode="RGB", size=(8, 8)):
    """A picture of one shade, or one of class indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Picture.new(mode, size, shade if mode == "L" else (shade,) * 3)
    if indices is not None:
        picture = Picture.fromarray(np.array(indices, dtype=np.uint8))
    picture.save(path)
    return path


def write(path, rows):
    """A manifest of rows, given as dictionaries."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        cells = ([row.get(name) for name in names] for row in rows)
        quoted = (",".join('"' + _csv(cell).replace('"', '""') + '"' for cell in line) for line in [names, *cells])
        path.write_text("\n".join(quoted))
    return path


def _csv(cell):
    return "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell)


def open_table(path, split="train", **options):
    return Table(**{"path": str(path), "size": SIZE, "test_share": 0, **options}).open(split)


@pytest.fixture(params=["csv", "jsonl"])
def full(request, tmp_path):
    """Two rows that have everything."""
    for i in range(2):
        save(tmp_path / "pictures" / f"{i}.png", shade=100 * i)
        save(tmp_path / f"map{i}.png", indices=[[i] * 8] * 4 + [[2] * 8] * 4)
    rows = [
        {"image": f"pictures/{i}.png", "regions": f"map{i}.png", "kind": ("dog", "cat")[i], "pose": [i, -0.5, 1e2]}
        for i in range(2)
    ]
    return write(tmp_path / f"table.{request.param}", rows)


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_column_of_some_kind_is_read_wrongly(full, memory_mb):
    samples = open_table(full, memory_mb=memory_mb, **COLUMNS)
    assert len(samples) == 2
    for i in range(2):
        sample = samples[i]
        assert sample.keys() == samples.fields.keys() == {"image", "regions", "kind", "pose"}
        assert sample["image"].unique().tolist() == [100 * i]
        assert sample["regions"].tolist() == [[i] * 8] * 4 + [[2] * 8] * 4
        assert sample["pose"].tolist() == [i, -0.5, 100]
        assert samples.fields["kind"].classes[sample["kind"]] == ("dog", "cat")[i]
        for name, spec in samples.fields.items():
            assert sample[name].shape == spec.shape
            assert sample[name].dtype == getattr(torch, spec.dtype)
    assert samples.fields["kind"].classes == ("cat", "dog")
    assert samples.fields["regions"].classes == ("sky", "sea", "land")


def test_columns_that_are_not_named_become_fields_or_are_read(full):
    samples = open_table(full, labels=("kind",))
    assert set(samples.fields) == set(samples[0]) == {"kind"}


def test_colour_false_leaves_colour(full):
    samples = open_table(full, pictures=("image",), colour=False)
    assert samples.fields["image"].shape == samples[1]["image"].shape == (1, SIZE, SIZE)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("memory_mb", [0, 1])
def test_what_a_row_lacks_is_made_up(tmp_path, suffix, memory_mb):
    save(tmp_path / "0.png", shade=50)
    rows = [
        {"image": "0.png", "kind": None, "pose": None},
        {"image": None, "kind": "cat", "pose": ""},
        {"image": "", "kind": None, "pose": [1]},
        {"image": None, "kind": None, "pose": None},
    ]
    names = {name: COLUMNS[name] for name in ("pictures", "labels", "vectors")}
    samples = open_table(write(tmp_path / f"t.{suffix}", rows), memory_mb=memory_mb, **names)
    assert [set(samples[i]) for i in range(len(samples))] == [{"image"}, {"kind"}, {"pose"}]


def test_a_key_that_some_lines_of_json_lack_is_an_error_or_made_up(tmp_path):
    samples = open_table(write(tmp_path / "t.jsonl", [{"a": "x"}, {"b": "y"}]), labels=("a", "b"))
    assert [set(samples[i]) for i in range(2)] == [{"a"}, {"b"}]


def test_paths_are_relative_to_the_working_directory_or_bound_to_the_manifest_s_folder(tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    save(tmp_path / "beside.png", shade=10)
    absolute = save(tmp_path / "far" / "away.png", shade=20)
    write(tmp_path / "tables" / "t.csv", [{"image": "../beside.png"}, {"image": str(absolute)}])
    monkeypatch.chdir(tmp_path)
    samples = open_table("tables/t.csv", pictures=("image",))
    assert [int(samples[i]["image"][0, 0, 0]) for i in range(2)] == [10, 20]


@pytest.mark.parametrize("text", ["kind\r\ncat\r\n\r\ndog\r\n", "\ufeffkind\ncat\ndog", 'kind\n"cat"\n"dog"\n'])
def test_a_csv_file_of_a_spreadsheet_is_refused_or_misread(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    samples = open_table(path, labels=("kind",))
    assert [samples.fields["kind"].classes[samples[i]["kind"]] for i in range(len(samples))] == ["cat", "dog"]


# Class maps


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_indices_of_a_map_are_taken_for_colours(tmp_path, mode):
    picture = Picture.fromarray(np.array([[0, 1] * 4] * 8, dtype=np.uint8))
    if mode == "P":
        picture.putpalette([255, 0, 0, 10, 20, 30])
    if mode == "1":
        picture = picture.point(lambda index: 255 * index).convert("1")
    picture.save(tmp_path / "map.png")
    path = write(tmp_path / "t.csv", [{"regions": "map.png"}])
    samples = open_table(path, maps=("regions",), map_classes=("no", "yes"))
    assert samples[0]["regions"].tolist() == [[0, 1] * 4] * 8


@given(indices=st.lists(st.sampled_from([0, 2]), min_size=16, max_size=16), size=st.integers(4, 40))
def test_resizing_a_map_invents_a_class(tmp_path_factory, indices, size):
    folder = tmp_path_factory.mktemp("map")
    save(folder / "map.png", indices=np.array(indices).reshape(4, 4))
    path = write(folder / "t.csv", [{"regions": "map.png"}])
    samples = open_table(path, maps=("regions",), map_classes=("a", "b", "c"), size=size)
    assert set(samples[0]["regions"].unique().tolist()) == set(indices)


def test_a_map_is_cropped_elsewhere_than_its_picture(tmp_path):
    shape = np.zeros((10, 30), dtype=np.uint8)
    shape[:, 12:20] = 1
    save(tmp_path / "map.png", indices=shape)
    save(tmp_path / "picture.png", indices=shape * 255)
    path = write(tmp_path / "t.csv", [{"image": "picture.png", "regions": "map.png"}])
    sample = open_table(path, pictures=("image",), maps=("regions",), map_classes=("a", "b"), size=10)[0]
    assert (sample["image"][0] > 127).equal(sample["regions"] == 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: save(p, indices=[[3] * 8] * 8), "has class index 3, and map_classes has 3"),
        (lambda p: save(p, shade=1), "is no class map, but a PNG picture of mode RGB"),
        (lambda p: p.write_text("no picture"), "is no picture"),
        (lambda p: save(p, mode="L", size=(8, 4)), "the 8x4 map 'regions' does not lie over a picture of 8x8"),
    ],
    ids=["an index without a class", "colours", "no picture", "another shape"],
)
@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_map_that_is_none_is_used(full, damage, message, memory_mb):
    damage(full.parent / "map0.png")
    with pytest.raises(UserError, match=rf"1 of 2 rows cannot be read.*\n(.|\n)*{message}"):
        open_table(full, memory_mb=memory_mb, **COLUMNS)[0]
    assert len(open_table(full, max_bad=0.5, memory_mb=1, **COLUMNS)) == 1


# Splits


def numbered(path, count, first=0):
    return write(path, [{"number": i} for i in range(first, first + count)])


def names(samples):
    return [samples.fields["number"].classes[samples[i]["number"]] for i in range(len(samples))]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_held_out_share_overlaps_varies_or_has_another_size(tmp_path, share):
    path = numbered(tmp_path / "t.csv", 40)
    train, test, again = (
        names(open_table(path, split, test_share=share, labels=("number",))) for split in ("train", "test", "test")
    )
    assert sorted(train + test, key=int) == [str(i) for i in range(40)]
    assert len(test) == round(40 * share)
    assert test == again


def test_rows_that_repeat_class_after_class_are_held_out_from_one_class_alone():
    rows = [Row(file="t.csv", line=i, cells={"kind": i % 10}) for i in range(1000)]
    assert len({row.cells["kind"] for row in held_out(rows, 0.1)[1]}) == 10


def test_a_second_manifest_is_not_the_test_split_or_numbers_classes_its_own_way(tmp_path):
    first, second = numbered(tmp_path / "a.csv", 5, first=6), numbered(tmp_path / "b.jsonl", 3)
    train, test = (
        open_table(first, split, test=str(second), test_share=0.5, labels=("number",)) for split in ("train", "test")
    )
    assert names(train) == ["6", "7", "8", "9", "10"]
    assert names(test) == ["0", "1", "2"]
    assert train.fields == test.fields


def test_training_rows_stand_in_for_a_test_split_that_is_empty(tmp_path):
    path = numbered(tmp_path / "t.csv", 4)
    with pytest.raises(MissingSplitError, match="has no rows for the test split"):
        open_table(path, "test", labels=("number",))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["10", "9", "-1", "9"], ("-1", "9", "10")),
        ([10, 9, "10"], ("9", "10")),
        (["b", "10", "9"], ("10", "9", "b")),
        (["07", "7"], ("07", "7")),
        (["1" * 5000, "2"], ("1" * 5000, "2")),
    ],
)
def test_classes_are_in_another_order_than_sorted_or_numeric(values, expected):
    assert classes_of([Row(file="t", line=1, cells={"x": value}) for value in values], "x") == expected


# Manifests that cannot be read


def one_row(**cells):
    return lambda folder: write(folder / "t.jsonl", [{"kind": "cat"}, cells])


def text(name, content):
    def make(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


KIND, POSE, IMAGE = {"labels": ("kind",)}, {"vectors": ("pose",)}, {"pictures": ("image",)}


@pytest.mark.parametrize(
    ("make", "columns", "message"),
    [
        (lambda folder: folder / "t.csv", KIND, r"t\.csv: cannot be read \(No such file"),
        (text("t.xlsx", ""), KIND, r"t\.xlsx: is no manifest\n.*CSV with a header"),
        (text("t.csv", b"kind\n\xff"), KIND, r"t\.csv: is not UTF-8 text \(byte 5\)"),
        (text("t.csv", ""), KIND, r"t\.csv: is empty"),
        (text("t.csv", "kind,kind\na,b"), KIND, "two columns called 'kind'"),
        (text("t.csv", "knid\ncat"), KIND, "has no column 'kind'\n  did you mean 'knid'"),
        (text("t.jsonl", '{"knid": "cat"}'), KIND, "has no column 'kind'\n  did you mean 'knid'"),
        (text("t.csv", '"kind,pose\n' + "x" * 200_000), KIND, "line 1"),
        (text("t.csv", "kind,pose\ncat,[1, 2]"), KIND, "line 2: has 3 cells, and the header has 2\n.*quotes"),
        (text("t.csv", "kind,pose\ncat\n"), KIND, "line 2: has 1 cells, and the header has 2"),
        (text("t.csv", 'kind\ncat\n"do'), KIND, r"line 3: cannot be read as CSV"),
        (text("t.jsonl", '{"kind": "cat"}\n\n{"kind": '), KIND, "line 3: cannot be read as JSON"),
        (text("t.jsonl", "[" * 100_000), KIND, "line 1: cannot be read as JSON"),
        (text("t.jsonl", '["cat"]'), KIND, "line 1: is no JSON object"),
        (one_row(kind=1.5), KIND, "line 2: column 'kind' must be a class name or a whole number, not 1.5"),
        (one_row(kind=True), KIND, "must be a class name or a whole number, not True"),
        (one_row(image=3), IMAGE, "line 2: column 'image' must name a file, not 3"),
        (one_row(image="no.png"), IMAGE, r"line 2: column 'image' names a file that is not there: .*\n.*relative"),
        (one_row(image="."), IMAGE, "line 2: column 'image' names a file that is not there"),
        (one_row(pose=[1, "2"]), POSE, r"line 2: column 'pose' cannot be read: \[1, '2'\] \(it is no list of numbers"),
        (one_row(pose=[True]), POSE, "it is no list of numbers"),
        (one_row(pose=3), POSE, "it is no list of numbers"),
        (one_row(pose="1, 2"), POSE, r"line 2: column 'pose' cannot be read: 1, 2 (.|\n)*\[0\.5, -1, 2e3\]"),
        (one_row(pose=[]), POSE, "it is empty"),
        (one_row(pose=[1e300]), POSE, "float32 cannot hold"),
        (one_row(pose=[10**400]), POSE, "line 2: column 'pose' cannot be read"),
        (text("t.jsonl", '{"pose": [NaN]}'), POSE, "float32 cannot hold"),
        (text("t.jsonl", '{"pose": [1, 2]}\n{"pose": [1]}'), POSE, "line 2: column 'pose' has 1 numbers here, and 2"),
        (text("t.csv", "kind,pose\ncat,\n"), {**KIND, **POSE}, "column 'pose' is empty in every row"),
        (text("t.csv", "kind,pose\n,[1]\n"), {**KIND, **POSE}, "column 'kind' is empty in every row"),
        (text("t.csv", "kind\n"), KIND, "has no rows for the train split"),
    ],
)  # fmt: skip
def test_a_manifest_at_fault_is_read_or_blamed_without_the_place(tmp_path, make, columns, message):
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_table(path, **columns)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name at least one column"),
        ({"pictures": ("a",), "labels": ("a",)}, "'a' is named twice"),
        ({"maps": ("a",)}, "maps and map_classes go together"),
        ({"labels": ("a",), "map_classes": ("x",)}, "maps and map_classes go together"),
    ],
)
def test_options_that_contradict_each_other_are_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        Table(path="t.csv", **options)
