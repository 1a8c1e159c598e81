"""mtdiff sample: values from the run's own data, any number of samples in bounded memory, going on after a stop."""

import errno
import json
import re
import shutil
import signal
import time
import tomllib
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import pil_to_tensor

from mtdiff_core import UserError
from mtdiff_core.directions import direction
from mtdiff_core.generation import Settings, generate, save_samples
from mtdiff_core.picture import MAX_CARDS
from mtdiff_core.sampling_job import given as given_module
from mtdiff_core.sampling_job import job as job_module
from mtdiff_core.sampling_job.formats import PARTS
from mtdiff_core.training.run import load_trained_model
from mtdiff_image import Digits
from mtdiff_label import Label
from tests.processes import PATIENCE, Started

BATCH = 3
HELD_OUT = Digits(size=8).open("test")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run that samples in small batches, in the folder ``run``."""
    shutil.copytree(trained, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    assert "batch_size = 256" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("batch_size = 256", f"batch_size = {BATCH}"))
    return tmp_path / "run"


@pytest.fixture
def sample(mtdiff, run, tmp_path):
    """Sample from the run into a folder; gives the folder."""

    def call(*arguments, out="out"):
        code, _, errors = mtdiff("sample", "run", *arguments, "--out", out)
        assert code == 0, errors
        return tmp_path / out

    return call


def tensors(folder):
    return load_file(folder / "samples.safetensors")


def held_out(count):
    """Natural values of the data that the run was not trained on."""
    rows = [HELD_OUT[i] for i in range(count)]
    return {
        "image": torch.stack([row["image"] for row in rows]) / 255,
        "label": torch.stack([r["label"] for r in rows]),
    }


def content(folder):
    """Every file below a folder, with the folder's own name taken out."""
    name = str(folder.resolve()).encode()
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): path.read_bytes().replace(name, b"") for path in found}


# Given from the data


def test_a_split_gives_other_values_than_the_data_has(sample):
    values = tensors(sample("--given", "image=@test", "--num", 7))
    torch.testing.assert_close(values["image"], held_out(7)["image"])


def test_a_split_leaves_samples_out_without_being_asked(sample):
    values = tensors(sample("--given", "label=@test", "--steps", 1))
    assert values["label"].equal(held_out(len(HELD_OUT))["label"])


def test_two_modalities_from_one_split_belong_to_different_samples(sample):
    values = tensors(sample("--given", "again=@train", "--given", "image=@train", "--num", 4))
    first = [Digits(size=8).open("train")[i] for i in range(4)]
    assert values["again"].tolist() == [row["label"] for row in first]
    torch.testing.assert_close(values["image"], torch.stack([row["image"] for row in first]) / 255)


def test_one_written_value_does_not_stand_beside_every_sample_of_a_split(sample):
    values = tensors(sample("--given", "image=@test", "--given", "label=3", "--num", 5))
    assert values["label"].tolist() == [3] * 5
    torch.testing.assert_close(values["image"], held_out(5)["image"])


@pytest.fixture
def gaps(monkeypatch):
    """The data, where every other sample has no label."""
    whole = Digits.open

    class Gaps:
        def __init__(self, samples):
            self.samples, self.fields = samples, samples.fields

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            sample = self.samples[index]
            return {name: x for name, x in sample.items() if name != "label" or index % 2 == 0}

    monkeypatch.setattr(Digits, "open", lambda self, split: Gaps(whole(self, split)))


def test_a_sample_that_lacks_what_is_given_is_made_up(sample, gaps):
    values = tensors(sample("--given", "image=@test", "--given", "label=@test", "--num", 5))
    known = held_out(9)
    assert values["label"].equal(known["label"][::2])
    torch.testing.assert_close(values["image"], known["image"][::2])


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn into grids."""
    parts, draw = [], job_module.draw_grid
    monkeypatch.setattr(job_module, "draw_grid", lambda new, *rest: (parts.extend(new), draw(new, *rest)))
    return parts


def test_the_grid_shows_another_truth_than_the_data_s(sample, drawn, gaps):
    sample("--given", "image=@test", "--num", 7)
    (part,) = drawn
    has = torch.arange(7) % 2 == 0
    assert set(part.truth.values) == {"label", "again"}
    assert part.truth.present["label"].equal(has)
    assert part.truth.values["label"][has].equal(held_out(7)["label"][has])


def test_words_fill_the_screen_or_say_a_name_twice_or_one_sample_is_called_several(mtdiff, run, monkeypatch):
    monkeypatch.setattr(Label, "describe", lambda self, values, _=None: [f"label {i}" for i in values.tolist()])
    _, said, _ = mtdiff("sample", "run", "--given", "image=@test", "--num", 12, "--steps", 1)
    lines = [line for line in said.splitlines() if line.startswith("label ")]
    assert [re.fullmatch(r"label (\d+): \d", line)[1] for line in lines] == [str(i) for i in range(1, 11)]
    assert "... and 2 more in samples.safetensors" in said
    assert "\n12 samples, image -> label + again: " in said
    _, said, _ = mtdiff("sample", "run", "--given", "image=@test", "--num", 1, "--steps", 1)
    assert "\n1 sample, image -> label + again: " in said


@pytest.mark.parametrize("arguments", [(), ("--given", "label=3")])
def test_the_grid_shows_a_truth_where_nothing_came_from_data(sample, drawn, arguments):
    sample(*arguments, "--num", 2)
    assert [part.truth for part in drawn] == [None]


# Any number of samples


@pytest.mark.parametrize(
    ("given", "count"),
    [("label=3", 5), ("label=3,4", 4), ("label=1,2,3,4,5,6", 6), ("image=two", 2)],
    ids=["all for one", "shared", "at least one each", "the anchor is known"],
)
def test_without_a_number_given_values_do_not_share_the_recipes(sample, run, tmp_path, given, count):
    recipe = run / "recipe.toml"
    recipe.write_text(re.sub(r"(?m)^num = \d+$", "num = 5", recipe.read_text()))
    (tmp_path / "two").mkdir()
    for name in "ab":
        Picture.new("L", (8, 8)).save(tmp_path / "two" / f"{name}.png")
    assert len(tensors(sample("--given", given, "--steps", 1))["label"]) == count


def test_samples_depend_on_being_written_batch_by_batch(sample, run, registry, tmp_path):
    made = sample("--num", 2, "--given", "label=1,2,3,4", "--seed", 5) / "samples.safetensors"
    experiment = load_trained_model(run, registry, torch.device("cpu")).experiment
    modalities = {name: source.modality for name, source in experiment.sources.items()}
    labels = torch.tensor([1, 2, 3, 4]).repeat_interleave(2)
    settings = Settings.of(experiment.recipe.sample, experiment.recipe.diffusion, 5)
    asked = direction(["label"], list(modalities))
    whole = generate(experiment.model, modalities, asked, {"label": labels}, 8, settings)
    save_samples(tmp_path / "whole.safetensors", [whole], modalities, settings)
    assert made.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    with safe_open(made, "pt") as file:
        (rows,) = json.loads(file.metadata()["mtdiff"])["directions"]
    assert rows == {"direction": "label -> image + again", "given": ["label"], "start": 0, "stop": 8}


@pytest.mark.parametrize("form", ["safetensors", "folder"])
def test_samples_or_what_is_given_for_them_pile_up(sample, monkeypatch, drawn, form):
    make, prepare, alive, asked, held = job_module.generate_batch, given_module.prepare_batch, [], [], []

    def generate_and_count(*arguments):
        held.append(sum(reference() is not None for reference in alive))
        made = make(*arguments)
        alive.extend(weakref.ref(values) for values in made.values.values())
        return made

    def prepare_and_count(samples, *rest):
        asked.append((len(samples), len(held)))
        return prepare(samples, *rest)

    monkeypatch.setattr(job_module, "generate_batch", generate_and_count)
    monkeypatch.setattr(given_module, "prepare_batch", prepare_and_count)
    count = MAX_CARDS + 4 * BATCH
    sample("--given", "image=@test", "--num", count, "--format", form, "--steps", 1)
    assert max(held) == 0, "a batch outlived its turn"
    assert [number for _, number in asked] == list(range(len(held))), "values were prepared ahead of their batch"
    assert [size for size, _ in asked] == [BATCH] * (count // BATCH) + [count % BATCH] * (count % BATCH > 0)
    (part,) = drawn
    assert len(part) == MAX_CARDS
    row = part.values["image"][0].numel() * 4
    assert part.values["image"].untyped_storage().nbytes() == MAX_CARDS * row


def test_a_finished_folder_holds_leftovers(sample):
    assert set(content(sample("--num", 7))) == {"samples.safetensors", "grid.png", "job.json"}


# A folder that is a data set


def test_a_folder_holds_other_samples_than_a_file(sample):
    arguments = ("--given", "label=3", "--num", 7)
    values, folder = tensors(sample(*arguments)), sample(*arguments, "--format", "folder", out="folder")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"image/{number:06d}.png" for number in range(1, 8)]
    assert [row["label"] for row in rows] == ["3"] * 7
    assert [row["again"] for row in rows] == [str(index) for index in values["again"].tolist()]
    for row, image in zip(rows, values["image"], strict=True):
        with Picture.open(folder / row["image"]) as file:
            assert pil_to_tensor(file).equal((image * 255).round().byte())
    assert {path.name for path in folder.iterdir()} == {
        "manifest.jsonl", "dataset.toml", "grid.png", "job.json", "image",
    }  # fmt: skip
    assert tomllib.loads((folder / "dataset.toml").read_text()) == {
        "data": {
            "dataset": "table", "path": str(folder / "manifest.jsonl"), "pictures": ["image"], "size": 8,
            "colour": False, "labels": ["label", "again"],
        }
    }  # fmt: skip


# Stopping and going on

NUM = 18
LONG = ("--num", NUM, "--steps", 60)  # so long that a busy machine sees it before it is over


@pytest.fixture
def stop(run, tmp_path):
    """Sample in a process of its own, and send it a signal once it has written so many parts."""

    def call(*arguments, out, parts, number):
        process = Started("sample", "run", *arguments, "--out", out, folder=tmp_path)
        deadline = time.monotonic() + PATIENCE
        while len(list((tmp_path / out / PARTS).glob("[0-9]*"))) < parts:
            assert process.returncode is None, f"ended before it was stopped: {process.communicate()}"
            assert time.monotonic() < deadline, "wrote nothing"
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate()
        return process.returncode, errors

    return call


@pytest.mark.parametrize(
    ("number", "form"),
    [
        (signal.SIGKILL, "safetensors"),
        (signal.SIGKILL, "folder"),
        (signal.SIGINT, "safetensors"),
        (signal.SIGTERM, "folder"),
    ],
    ids=["killed, a file", "killed, a folder", "ctrl-c, a file", "sigterm, a folder"],
)
def test_a_stopped_job_ends_in_other_bytes_than_one_that_was_not(sample, stop, mtdiff, tmp_path, number, form):
    arguments = (*LONG, "--format", form)
    code, errors = stop(*arguments, out="stopped", parts=2, number=number)
    assert not (tmp_path / "stopped" / "samples.safetensors").exists()
    assert not (tmp_path / "stopped" / "manifest.jsonl").exists()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130, errors
        (kept,) = re.findall(rf"interrupted: (\d+) of {NUM} samples are kept in stopped\n  go on with --resume", errors)
        assert 2 * BATCH <= int(kept) < NUM
    code, _, errors = mtdiff("sample", "run", *arguments, "--out", "stopped", "--resume")
    assert code == 0, errors
    assert re.search(rf"going on after \d+ of {NUM} samples", errors)
    assert content(tmp_path / "stopped") == content(sample(*arguments, out="whole"))


@pytest.fixture
def interrupted_at(monkeypatch, mtdiff, run):
    """Begin a job that is stopped in its batch ``number``; afterwards gives the numbers of the batches made since."""
    real = job_module.generate_batch

    def call(number, *arguments):
        made = []

        def generate_or_stop(model, modalities, asked, known, rows, *rest):
            if rows.start == number * BATCH and not made:
                raise KeyboardInterrupt
            return real(model, modalities, asked, known, rows, *rest)

        monkeypatch.setattr(job_module, "generate_batch", generate_or_stop)
        assert mtdiff("sample", "run", *arguments)[0] == 130

        def generate_and_count(model, modalities, asked, known, rows, *rest):
            made.append(rows.start // BATCH)
            return real(model, modalities, asked, known, rows, *rest)

        monkeypatch.setattr(job_module, "generate_batch", generate_and_count)
        return made

    return call


def test_a_finished_batch_is_made_again(interrupted_at, mtdiff):
    many = ("--num", MAX_CARDS + 10, "--steps", 1, "--out", "out")
    made = interrupted_at(23, *many)
    assert mtdiff("sample", "run", *many, "--resume")[0] == 0
    assert made == [23, 24]


def test_resume_without_a_folder_takes_another_job_than_the_newest(interrupted_at, mtdiff, run):
    assert mtdiff("sample", "run", "--num", 1)[0] == 0
    interrupted_at(1, "--num", 5)
    code, output, _ = mtdiff("sample", "run", "--num", 5, "--resume")
    assert code == 0
    assert "5 samples, joint -> image + label + again: run/samples/2/grid.png" in output
    assert {path.name for path in (run / "samples" / "2").iterdir()} == {"samples.safetensors", "grid.png", "job.json"}


def test_resuming_a_finished_job_changes_something(sample, mtdiff):
    folder = sample("--num", 5)
    before = content(folder)
    code, output, _ = mtdiff("sample", "run", "--num", 5, "--out", "out", "--resume")
    assert code == 0
    assert "5 samples" in output
    assert content(folder) == before


def test_a_lost_grid_is_not_drawn_again(sample, mtdiff):
    folder = sample("--num", 5)
    before = content(folder)
    (folder / "grid.png").unlink()
    assert mtdiff("sample", "run", "--num", 5, "--out", "out", "--resume")[0] == 0
    assert content(folder) == before


BEGUN = ("--num", 5, "--given", "label=3", "--guidance", 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--num", 6, *BEGUN[2:]), "num (5 then, 6 now)"),
        ((*BEGUN, "--seed", 1), "seed (0 then, 1 now)"),
        ((*BEGUN, "--steps", 9), "steps (2 then, 9 now)"),
        ((*BEGUN, "--sampler", "ddim"), 'sampler ("ancestral" then, "ddim" now)'),
        ((*BEGUN[:4], "--guidance", 2), "guidance ("),
        ((*BEGUN, "--format", "folder"), 'format ("safetensors" then, "folder" now)'),
        (("--num", 5, "--given", "label=4", "--guidance", 1), 'given ({"label": "3"} then, {"label": "4"} now)'),
        (("--num", 5), "direction ("),
    ],
)
def test_a_job_goes_on_with_other_settings_than_it_was_begun_with(interrupted_at, mtdiff, tmp_path, changed, said):
    interrupted_at(1, *BEGUN, "--out", "out")
    before = content(tmp_path / "out")
    code, _, errors = mtdiff("sample", "run", *changed, "--out", "out", "--resume")
    assert code == 2
    assert "out: the job that was begun here has other settings; different: " in errors
    assert said in errors
    assert content(tmp_path / "out") == before


def test_a_job_goes_on_with_another_picture_under_the_same_name(interrupted_at, mtdiff, tmp_path):
    given = ("--num", 5, "--given", "image=photo.png")
    for grey, ends in ((20, None), (20, 0), (200, 2)):
        Picture.new("L", (8, 8), grey).save(tmp_path / "photo.png")
        if ends is None:
            interrupted_at(1, *given, "--out", "out")
            shutil.copytree(tmp_path / "out", tmp_path / "again")
            continue
        folder = "out" if ends == 0 else "again"
        code, _, errors = mtdiff("sample", "run", *given, "--out", folder, "--resume")
        assert code == ends, errors
    assert "values (" in errors


def test_a_job_goes_on_with_weights_that_were_trained_further(interrupted_at, mtdiff, run, tmp_path):
    interrupted_at(1, *BEGUN, "--out", "out")
    shutil.rmtree(run / "checkpoints" / "step-4")
    code, _, errors = mtdiff("sample", "run", *BEGUN, "--out", "out", "--resume")
    assert code == 2
    assert "step (4 then, 2 now), weights (" in errors


# Disks that fill up


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("job.json", "folder"),
        ("000001.safetensors", "safetensors"),
        ("000004.png", "folder"),
        ("000001.jsonl", "folder"),
        ("grid.png", "folder"),
        ("dataset.toml", "folder"),
        ("manifest.jsonl", "folder"),
        ("samples.safetensors", "safetensors"),
    ],
)
def test_a_full_disk_costs_more_than_what_was_being_written(sample, mtdiff, monkeypatch, tmp_path, name, form):
    sound = Path.replace

    def fail(path, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sound(path, target)

    arguments = ("--num", 7, "--format", form)
    monkeypatch.setattr(Path, "replace", fail)
    code, _, errors = mtdiff("sample", "run", *arguments, "--out", "full")
    assert code == 2
    assert f"cannot write {name}: the disk is full" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "full").rglob(f"*{name}*"))
    assert not list((tmp_path / "full").rglob(".*"))
    monkeypatch.setattr(Path, "replace", sound)
    resume = () if name == "job.json" else ("--resume",)
    assert mtdiff("sample", "run", *arguments, "--out", "full", *resume)[0] == 0
    assert content(tmp_path / "full") == content(sample(*arguments, out="whole"))


def test_data_that_turns_bad_on_the_way_costs_what_was_made_before(sample, mtdiff, monkeypatch, tmp_path):
    prepare = given_module.prepare_batch

    def fail_late(samples, sources, random):
        if len(list((tmp_path / "out" / PARTS).iterdir())) == 2:
            raise UserError("cannot be read as a picture", "7.png")
        return prepare(samples, sources, random)

    arguments = ("--given", "image=@test", "--num", 10)
    monkeypatch.setattr(given_module, "prepare_batch", fail_late)
    code, _, errors = mtdiff("sample", "run", *arguments, "--out", "out")
    assert (code, errors.splitlines()[-1]) == (2, "error: 7.png: cannot be read as a picture")
    monkeypatch.setattr(given_module, "prepare_batch", prepare)
    code, _, errors = mtdiff("sample", "run", *arguments, "--out", "out", "--resume")
    assert "going on after 6 of 10 samples" in errors
    assert content(tmp_path / "out") == content(sample(*arguments, out="whole"))


def test_a_guidance_that_is_no_number_ends_in_a_traceback(mtdiff, run, tmp_path):
    code, _, errors = mtdiff("sample", "run", "--given", "label=3", "--guidance", "nan", "--out", "out")
    assert (code, errors) == (2, "error: --guidance: must be at least 0, not nan\n")
    assert not (tmp_path / "out").exists()


def test_samples_are_not_those_of_the_checkpoint_that_is_asked_for(sample, run):
    newest, older, named = (
        tensors(sample("--num", 2, *more, out=str(len(more) and more[1])))["image"]
        for more in ((), ("--checkpoint", 2), ("--checkpoint", 4))
    )
    assert newest.equal(named)
    assert not newest.equal(older)
    shutil.rmtree(run / "checkpoints" / "step-4")
    assert older.equal(tensors(sample("--num", 2, out="newest now"))["image"])
