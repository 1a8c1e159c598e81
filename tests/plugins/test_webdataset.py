"""Shards: nothing is lost on the way, what is damaged is left out, and places are named in every way promised."""

import io
import json
import shutil
import tarfile
from itertools import islice

import fsspec
import numpy
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from mtdiff_core import FieldSpec, MissingSplitError, UserError
from mtdiff_core.data.batches import bind
from mtdiff_core.data.packing import damage, pack
from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.data.streaming import stream_loader
from mtdiff_datasets.scenes import Scenes
from mtdiff_datasets.webdataset import WebDataset, expanded
from mtdiff_image import Digits, Image

BLOCK = 512  # of a tar file


class MixedSamples:
    """Fields of every kind; some samples lack some."""

    fields = {  # noqa: RUF012 - as TensorSamples has it
        "grey.one": FieldSpec(shape=(1, 6, 4), dtype="uint8"),
        "colour": FieldSpec(shape=(3, 6, 4), dtype="uint8"),
        "map": FieldSpec(shape=(6, 4), dtype="uint8", classes=("a", "b")),
        "bytes": FieldSpec(shape=(5,), dtype="uint8"),
        "label": FieldSpec(shape=(), dtype="int64", classes=("no", "yes")),
        "count": FieldSpec(shape=(), dtype="int32"),
        "flag": FieldSpec(shape=(), dtype="bool"),
        "vector": FieldSpec(shape=(3,), dtype="float32"),
        "half": FieldSpec(shape=(2, 2), dtype="float16"),
        "temperature": FieldSpec(shape=(), dtype="float64"),
    }

    def __len__(self):
        return 11

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        sample = {}
        for name, spec in self.fields.items():
            raw = torch.randint(-300, 300, spec.shape, generator=random)
            if spec.dtype == "uint8" or spec.classes:
                raw = raw % (len(spec.classes) or 256)
            sample[name] = (raw / 7 if "float" in spec.dtype else raw).to(getattr(torch, spec.dtype))
        return {name: x for i, (name, x) in enumerate(sample.items()) if (index + i) % 4}


def packed(samples, folder, shard_size=4, shuffle=False):
    pack(samples, folder, shard_size, shuffle, {"dataset": "a test's"})
    return folder


def stream(folder, **options):
    return WebDataset(train=str(folder), **options).stream("train")


def all_samples(part):
    """What a stream reads and decodes; the message of an error in its place."""
    found = []
    for shard in range(len(part.shards)):
        for kept in part.read(shard, 0):
            try:
                if isinstance(kept, UserError):
                    raise kept
                found.append(part.decode(kept, part.fields))
            except UserError as error:
                found.append(str(error))
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert value.equal(other[name]), name


# Nothing is lost


@pytest.mark.parametrize(
    "samples",
    [Digits(size=8).open("test"), Scenes(train=10, size=16).open("train"), MixedSamples()],
    ids=["digits", "scenes", "mixed"],
)
def test_packing_changes_a_sample(samples, tmp_path):
    part = stream(packed(samples, tmp_path / "shards", shard_size=max(4, len(samples) // 3)))
    assert part.fields == samples.fields
    assert len(part.shards) > 1
    found = all_samples(part)
    assert len(found) == sum(shard.samples for shard in part.shards) == len(samples)
    first = WebDataset(train=str(tmp_path / "shards")).open("train")
    assert len(first) == len(samples)
    for index, sample in enumerate(found):
        assert_same(sample, samples[index])
        assert_same(first[index], samples[index])


def test_shuffling_while_packing_loses_samples_or_does_nothing(tmp_path):
    samples = Digits(size=8).open("test")
    found = all_samples(stream(packed(samples, tmp_path / "shards", 100, shuffle=True)))
    pictures = [sample["image"].numpy().tobytes() for sample in found]
    originals = [samples[i]["image"].numpy().tobytes() for i in range(len(samples))]
    assert pictures != originals
    assert sorted(pictures) == sorted(originals)


def test_the_same_split_does_not_give_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        packed(MixedSamples(), tmp_path / name)
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("one", "other"))
    assert one == other
    assert one.keys() == {"000000.tar", "000001.tar", "000002.tar", "index.json"}


@pytest.mark.parametrize("start", range(5))
def test_a_shard_that_is_read_from_amid_begins_elsewhere(start, tmp_path):
    part = stream(packed(MixedSamples(), tmp_path / "shards"))
    found = [part.decode(kept, part.fields) for kept in part.read(1, start)]
    assert len(found) == 4 - start
    for i, sample in enumerate(found):
        assert_same(sample, MixedSamples()[4 + start + i])


def test_a_field_that_nobody_reads_is_decoded(tmp_path):
    part = stream(packed(MixedSamples(), tmp_path / "shards"))
    (first, *_) = part.read(0, 1)
    assert part.decode(first, {"colour", "night"}).keys() == {"colour"}


@pytest.mark.parametrize(("name", "dtype"), [("a/b", "uint8"), ("a", "bfloat16")])
def test_a_field_that_cannot_be_kept_is_packed(name, dtype, tmp_path):
    fields = {name: FieldSpec(shape=(2,), dtype=dtype)}
    samples = TensorSamples(fields, {name: torch.zeros(3, 2, dtype=getattr(torch, dtype))})
    with pytest.raises(UserError, match=rf"the data set: field '{name}'"):
        packed(samples, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_not_resumed_amid_an_epoch_as_if_they_had_not_been_left(workers, tmp_path):
    folder = packed(Digits(size=8).open("test"), tmp_path / "shards", 50)

    def loader():
        part = stream(folder, shuffle_buffer=70)
        sources = {"image": bind(Image(flip=True), "image", "image", part.fields)}
        return stream_loader(part, sources, batch_size=16, seed=0, workers=workers)

    whole = [batch.values["image"] for batch in islice(loader(), 40)]
    stopped, resumed = loader(), loader()
    before = [batch.values["image"] for batch in islice(stopped, 23)]
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    after = [batch.values["image"] for batch in islice(resumed, 17)]
    assert torch.stack(before + after).equal(torch.stack(whole))


# Where shards lie


def test_braces_expand_otherwise_than_in_a_shell():
    assert expanded("{08..11}.tar") == ["08.tar", "09.tar", "10.tar", "11.tar"]
    assert expanded("a{0..1}-{1..2}.tar") == ["a0-1.tar", "a0-2.tar", "a1-1.tar", "a1-2.tar"]
    assert expanded("one.tar") == ["one.tar"]


@pytest.fixture
def in_memory(tmp_path):
    """Shards in fsspec's file system of this process: a URL as any other."""
    packed(MixedSamples(), tmp_path / "shards")
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        files.pipe(f"/shards/{path.name}", path.read_bytes())
    yield "memory://shards"
    files.rm("/shards", recursive=True)


def test_a_url_is_read_otherwise_than_a_folder(in_memory, tmp_path):
    near, far = all_samples(stream(tmp_path / "shards")), all_samples(stream(in_memory))
    assert len(near) == len(far) == 11
    for one, other in zip(near, far, strict=True):
        assert_same(one, other)
    assert len(all_samples(stream(f"{in_memory}/{{000001..000002}}.tar"))) == 7


class RefusedError(Exception):
    """What a driver has for errors: no ``OSError``."""


@pytest.fixture
def refusing(tmp_path):
    """Shards in a file system whose driver fails in one of its calls, which its attribute ``fails`` names."""
    sound = LocalFileSystem()
    packed(MixedSamples(), tmp_path / "shards")

    class Refusing(AbstractFileSystem):
        protocol = "refusing"
        fails = ""
        cachable = False

        def fail(self, call):
            if call == self.fails:
                raise RefusedError("the token is\ntoo old")

        def __init__(self, **options):
            self.fail("begin")
            super().__init__(**options)

        def cat_file(self, path, *_, **__):
            self.fail("index")
            return sound.cat_file(path)

        def _open(self, path, *_, **__):
            self.fail("open")
            file = sound.open(path)
            read = file.read

            def failing(size=-1):
                if file.tell() > BLOCK:
                    self.fail("read")
                return read(size)

            file.read = failing
            return file

    fsspec.register_implementation("refusing", Refusing, clobber=True)
    return Refusing, f"refusing://{tmp_path}/shards"


@pytest.mark.parametrize("call", ["begin", "index", "open", "read"])
def test_an_error_that_a_driver_has_of_its_own_ends_in_a_traceback(refusing, call):
    driver, url = refusing
    assert len(all_samples(stream(url))) == 11
    driver.fails = call
    with pytest.raises(UserError, match=r"cannot be (read|opened) \(RefusedError: the token is too old\)") as found:
        all_samples(stream(url))
    assert "refusing://" in str(found.value)
    assert ("--resume" in str(found.value)) == (call in ("open", "read"))


def test_a_pattern_reads_other_shards_than_it_names(tmp_path, monkeypatch):
    folder = packed(MixedSamples(), tmp_path / "shards")
    found = all_samples(stream(f"{folder}/{{000001..000002}}.tar"))
    assert len(found) == 7
    assert_same(found[0], MixedSamples()[4])
    monkeypatch.chdir(folder)
    assert len(all_samples(stream("000002.tar"))) == 3


def test_a_path_that_holds_no_shards_is_taken(tmp_path):
    folder = packed(MixedSamples(), tmp_path / "shards")
    with pytest.raises(UserError, match=r"the index knows no shard '000003\.tar'\n.*000002\.tar"):
        stream(f"{folder}/{{000002..000003}}.tar")
    with pytest.raises(UserError, match=r"nowhere/index\.json: cannot be read.*\n.*`mtdiff data pack`"):
        stream(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^s9://bucket: cannot be opened.*s9"):
        stream("s9://bucket")
    with pytest.raises(MissingSplitError, match=r"data\.test: no shards are named"):
        WebDataset(train=str(folder)).open("test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no index of shards"),
        ('{"fields": {}}', "is no index of shards"),
        ('{"made_from": {}, "fields": {}, "shards": [], "format": "mtdiff shards 9"}', "'mtdiff shards 9'"),
        ('{"made_from": {}, "fields": {}, "shards": []}', "holds no shards"),
    ],
)
def test_an_index_that_is_none_is_taken(text, said, tmp_path):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=said):
        stream(tmp_path)


def test_the_samples_in_any_order_take_more_memory_than_allowed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (40, 3, 200, 200), dtype=torch.uint8, generator=generator)  # about 0.12 MB a sample
    samples = TensorSamples({"image": FieldSpec(shape=(3, 200, 200), dtype="uint8")}, {"image": noise})
    folder = packed(samples, tmp_path / "shards", 10)
    some = WebDataset(train=str(folder), memory_mb=1).open("train")
    assert 7 <= len(some) <= 8
    assert some[len(some) - 1]["image"].equal(noise[len(some) - 1])
    assert len(WebDataset(train=str(folder), memory_mb=6).open("train")) == 40


# Damage


def spoil(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def place_of(path, member):
    """Where the content of a member begins."""
    with tarfile.open(path) as shard:
        return shard.getmember(member).offset_data


@pytest.fixture
def shards(tmp_path):
    """Twelve digits in three shards."""
    digits = Digits(size=8).open("test")
    fields = {**digits.fields, "vector": FieldSpec(shape=(8,), dtype="float32")}
    images = torch.stack([digits[i]["image"] for i in range(12)])
    labels = torch.stack([digits[i]["label"] for i in range(12)])
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    return packed(TensorSamples(fields, {"image": images, "label": labels, "vector": vectors}), tmp_path / "shards")


def faults(folder):
    """Numbers of the samples that cannot be read, with why; the others must be what they were."""
    found = all_samples(stream(folder))
    assert len(found) == 12
    digits = Digits(size=8).open("test")
    for i, sample in enumerate(found):
        assert isinstance(sample, str) or sample["image"].equal(digits[i]["image"])
    return {i: sample for i, sample in enumerate(found) if isinstance(sample, str)}


def test_shards_that_are_well_have_faults(shards):
    assert faults(shards) == {}
    assert list(damage(shards)) == []


@pytest.mark.parametrize("member", ["000001_3.image.png", "000001_3.vector.npz", "000001_3.label.cls"])
def test_a_damaged_member_passes_or_takes_others_with_it(member, shards):
    path = shards / "000001.tar"
    start = place_of(path, member)
    # the last bytes are the checksum's neighbours: far from any header
    spoil(path, lambda data: data.__setitem__(slice(start, start + 1), b"\xff"))
    field = member.split(".")[1]
    ((number, said),) = faults(shards).items()
    assert number == 5
    assert said.startswith(f"{path}, sample 1: field '{field}' is damaged (")
    assert list(damage(shards)) == [said]


@pytest.mark.parametrize("field", ["image.png", "vector.npz"])
def test_a_flipped_bit_gives_another_value(field, shards):
    path = shards / "000001.tar"
    start, whole = place_of(path, f"000001_3.{field}"), path.read_bytes()
    with tarfile.open(path) as shard:
        size = shard.getmember(f"000001_3.{field}").size
    (name, _) = field.split(".")
    original = all_samples(stream(shards))[5][name]
    noticed = 0
    for byte in range(start, start + size, 3):
        spoil(path, lambda data, byte=byte: data.__setitem__(byte, data[byte] ^ 4))
        sample = all_samples(stream(f"{shards}/000001.tar"))[1]
        noticed += isinstance(sample, str)
        assert isinstance(sample, str) or sample[name].equal(original)  # some bytes carry nothing
        path.write_bytes(whole)
    assert noticed


def shorten_header(data):
    """The array begins in the spaces that fill the header up, and what is read of the file ends before it does."""
    place = data.index(b"\x93NUMPY") + 8
    data[place] = data.index(b"}", place) + 1 - (place + 2)


def leave_bracket_open(data):
    data[data.index(b"(40, 64)") + 7] = ord("x")


@pytest.mark.parametrize("damage_header", [shorten_header, leave_bracket_open])
def test_a_damaged_description_of_an_array_gives_another_value_or_ends_the_program(damage_header, tmp_path):
    spectra = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))
    samples = TensorSamples({"spectrum": FieldSpec(shape=(40, 64), dtype="float32")}, {"spectrum": spectra})
    folder = packed(samples, tmp_path / "shards")
    spoil(folder / "000000.tar", damage_header)
    damaged, whole = all_samples(stream(folder))
    assert "field 'spectrum' is damaged (" in damaged
    assert whole["spectrum"].equal(spectra[1])


def test_a_damaged_header_takes_the_rest_of_the_shard_away(shards):
    path = shards / "000001.tar"
    start = place_of(path, "000001_3.label.cls") - BLOCK
    spoil(path, lambda data: data.__setitem__(slice(start, start + 20), bytes(range(20))))
    assert faults(shards) == {5: f"{path}, sample 1: is missing, or lacks a part"}


def test_the_whole_part_of_a_truncated_shard_is_lost_or_its_last_sample_passes_for_one_that_lacks_fields(shards):
    path = shards / "000001.tar"
    for cut in (place_of(path, "000002_3.vector.npz") + 9, place_of(path, "000002_3.label.cls") - BLOCK - 100):
        path.write_bytes(path.read_bytes()[:cut])
        assert faults(shards).keys() == {6, 7}
    assert len(list(damage(shards))) == 2
    path.write_bytes(b"")
    assert faults(shards).keys() == {4, 5, 6, 7}


def test_a_shard_of_something_else_runs_code_or_ends_the_program(shards):
    path = shards / "000001.tar"
    pickled = io.BytesIO()
    numpy.savez(pickled, value=numpy.array([print], dtype=object))
    with tarfile.open(path, "w") as shard:
        for name, data in {
            "000000_1.vector.npz": pickled.getvalue(),
            "000001_1.image.png": b"no picture",
            "000002_1.label.cls": b"12",  # there are ten classes
            "readme.txt": b"",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("000003_1.label.cls")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    found = faults(shards)
    assert found.keys() == {4, 5, 6, 7}
    assert "pickle" in found[4]
    assert "there is no class 12" in found[6]
    assert "is missing" in found[7]


def test_a_value_of_another_shape_than_the_index_says_passes(shards):
    index = json.loads((shards / "index.json").read_text())
    index["fields"]["image"]["shape"] = [1, 9, 8]
    (shards / "index.json").write_text(json.dumps(index))
    assert "field 'image' is torch.uint8 (1, 8, 8), and the index says uint8 1x9x8" in all_samples(stream(shards))[0]


def test_a_shard_that_is_gone_is_found_only_when_it_is_read(shards):
    opened = stream(shards)
    (shards / "000002.tar").unlink()
    with pytest.raises(UserError, match=r"shards: 1 of 3 shards are not there: 000002\.tar"):
        stream(shards)
    assert len(list(opened.read(1, 0))) == 4
    with pytest.raises(UserError, match=r"000002\.tar: cannot be read \(No such file.*\n.*--resume"):
        list(opened.read(2, 0))
    assert list(damage(shards)) == [f"{shards / '000002.tar'}: is not there (4 samples)"]


def test_a_shard_that_was_changed_without_harm_passes_the_check(shards):
    path = shards / "000001.tar"
    path.write_bytes(path.read_bytes() + bytes(BLOCK))
    assert faults(shards) == {}
    assert list(damage(shards)) == [f"{path}: is not as it was written, though every sample can be read"]


# Packing in parts


def test_packing_that_was_stopped_starts_over_or_ends_in_other_bytes(tmp_path):
    class Stopping(MixedSamples):
        asked, most = 0, 6

        def __getitem__(self, index):
            self.asked += 1
            if self.asked > self.most:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    whole, stopped = packed(MixedSamples(), tmp_path / "whole"), tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        packed(Stopping(), stopped)
    assert {path.name for path in stopped.iterdir()} == {"000000.tar", "index.partial.json"}
    with pytest.raises(UserError, match=r"index\.json: cannot be read"):
        stream(stopped)
    rest = Stopping()
    rest.most = 11
    packed(rest, stopped)
    assert rest.asked == 7, "finished shards were packed again"
    assert {p.name: p.read_bytes() for p in stopped.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_a_shard_that_was_removed_is_not_packed_again(shards, tmp_path):
    folder = packed(MixedSamples(), tmp_path / "mixed")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "000001.tar").unlink()
    packed(MixedSamples(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_something_else_is_written_into(tmp_path):
    folder = packed(MixedSamples(), tmp_path / "shards")
    with pytest.raises(UserError, match="holds shards of another data set, or of this one packed otherwise"):
        packed(MixedSamples(), folder, shard_size=5)
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "index.json").unlink()
    with pytest.raises(UserError, match="holds something else"):
        packed(MixedSamples(), tmp_path / "other")


def test_a_sample_that_has_nothing_is_packed(tmp_path):
    class Empty(MixedSamples):
        def __getitem__(self, index):
            return {} if index == 3 else super().__getitem__(index)

    with pytest.raises(UserError, match="sample 3 has no field at all"):
        packed(Empty(), tmp_path / "shards")
    assert not list((tmp_path / "shards").iterdir())
