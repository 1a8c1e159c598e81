"""Bad input: exit code 2, one message that says where and what would be right, no traceback, nothing written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from PIL import Image

from tests.conftest import TINY

# ----- the places that bad input is tried in

Damage = Callable[[Path], object]


@attrs.frozen
class Place:
    """An empty folder, a sound recipe in it called tiny.toml, and a sound run elsewhere."""

    folder: Path
    trained: Path

    def recipe(self, *changes: tuple[str, str]) -> list[str]:
        """Run the tiny recipe with text replaced."""
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (self.folder / "bad.toml").write_text(text)
        return ["run", "bad.toml", "--out", "out"]

    def pictures(self, *paths: str) -> list[str]:
        """Run the tiny recipe on a folder of pictures; paths that end in ``!`` are no pictures."""
        (self.folder / "pictures").mkdir()
        for path in paths:
            file = self.folder / "pictures" / path.rstrip("!")
            file.parent.mkdir(exist_ok=True)
            if path.endswith("!"):
                file.write_text("not a picture")
            else:
                Image.new("L", (8, 8), len(path)).save(file)
        return self.recipe(('dataset = "digits"', 'dataset = "image-folder"\npath = "pictures"'))

    def copy_run(self, damage: Damage = lambda run: None) -> None:
        """Copy the sound run to the folder ``run`` and damage it."""
        run = self.folder / "run"
        shutil.copytree(self.trained, run)
        damage(run)

    def written(self) -> dict[str, bytes | None]:
        """Everything in the folder."""
        return {str(path): path.read_bytes() if path.is_file() else None for path in self.folder.rglob("*")}


@pytest.fixture
def place(tmp_path, tiny, trained):
    return Place(tiny.parent, trained)


def the_only_checkpoint(run: Path) -> Path:
    """The newest checkpoint, once there is no older one that could take its place."""
    for older in set((run / "checkpoints").glob("step-*")) - {run / "checkpoints" / "step-4"}:
        shutil.rmtree(older)
    return run / "checkpoints" / "step-4"


def cut(name: str) -> Damage:
    """Cut a file of the only checkpoint short."""

    def damage(run: Path) -> None:
        file = the_only_checkpoint(run) / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def flip(name: str) -> Damage:
    """Change one bit of a file of the only checkpoint."""

    def damage(run: Path) -> None:
        file = the_only_checkpoint(run) / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    return damage


def edit_recipe(old: str, new: str) -> Damage:
    """Edit a run's own recipe."""

    def damage(run: Path) -> None:
        file = run / "recipe.toml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return damage


# ----- bad input: what is wrong -> (command, what the message must say)

Command = Callable[[Place], list[str]]
CASES: dict[str, tuple[Command, tuple[str, ...]]] = {}


def case(what: str, command: Command, *expected: str) -> None:
    assert what not in CASES
    CASES[what] = (command, expected)


def recipe_case(what: str, old: str, new: str, *expected: str) -> None:
    """Run the tiny recipe with some text replaced."""
    case(what, lambda place: place.recipe((old, new)), *expected)


def line(text: str) -> Command:
    """A command that needs no more than the sound recipe tiny.toml."""
    return lambda place: text.split()


def file(data: bytes, text: str = "run bad.toml --out out") -> Command:
    """A command on a recipe file with this content."""

    def command(place: Place) -> list[str]:
        (place.folder / "bad.toml").write_bytes(data)
        return text.split()

    return command


def on_run(text: str, damage: Damage = lambda run: None) -> Command:
    """A command on the folder ``run``, a copy of the sound run that was damaged."""

    def command(place: Place) -> list[str]:
        place.copy_run(damage)
        return text.split()

    return command


def given(*values: str) -> Command:
    """Sample with values given."""
    return on_run(" ".join(["sample run", *(f"--given {value}" for value in values)]))


EMA = "ema.safetensors"
RESUME = "run run/recipe.toml --resume --out run"

# Recipes: the file
case("no such recipe", line("run image+lable"), "image+lable: is no recipe file", "did you mean 'image+label'?")
case("no such file", line("run my/own.toml"), "my/own.toml: is no recipe file", "allowed: image+label")
case("a folder as recipe", on_run("run run"), "run: is no recipe file")
case("no TOML", file(b"[train\nsteps = 4"), "bad.toml: is not valid TOML", "at line 1, column 7")
case("no UTF-8", file(b'name = "\xff"'), "bad.toml: is not UTF-8 text (byte 8")
case("an empty recipe", file(b""), "bad.toml: 3 problems", "name: is missing", "data.dataset: is missing")
# Recipes: names
recipe_case("an unknown key at the top", "seed = 0", "sede = 0", "bad.toml: sede: unknown key", "did you mean 'seed'?")
recipe_case(
    "an unknown key in a section", "log_every = 1", "log_evry = 1", "train.log_evry", "did you mean 'log_every'?"
)
recipe_case(
    "an unknown key of a modality", "weight = 0.1", "wieght = 1", "modalities.label.wieght", "did you mean 'weight'?"
)
recipe_case("an unknown section", "[sample]", "[sampling]", "bad.toml: sampling: unknown key", "did you mean 'sample'?")
recipe_case("a misspelt data set", '"digits"', '"digit"', "data.dataset: no dataset is called 'digit'", "'digits'?")
recipe_case(
    "a misspelt aggregator", "[space]", '[space]\naggregator = "blok"', "space.aggregator: no aggregator", "'blocks'?"
)
recipe_case("a misspelt backbone", "[backbone]", '[backbone]\ntype = "uent"', "backbone.type: no backbone", "'unet'?")
recipe_case("a misspelt modality", 'type = "label"', 'type = "lable"', "modalities.label.type: no modality", "'label'?")
recipe_case(
    "a misspelt schedule", "[train]", '[diffusion]\nschedule = "cosin"\n[train]', "diffusion.schedule", "'cosine'?"
)
recipe_case("a name that leads elsewhere", 'name = "tiny"', 'name = "../tiny"', "name: '../tiny'", "letters, digits")
recipe_case("an empty name", 'name = "tiny"', 'name = ""', "name: '' cannot be a name", "letters, digits")
recipe_case(
    "a modality without a type",
    "[backbone]",
    "[modalities.depth]\nweight = 1\n[backbone]",
    "modalities.depth.type: is missing",
    "allowed: image, label",
)
recipe_case(
    "a modality with an unusable name",
    "[modalities.label]",
    '[modalities."a.b"]',
    "modalities.a.b: 'a.b' cannot be a name",
)
recipe_case(
    "a modality with a name of torch's",
    "[modalities.label]",
    '[modalities.values]\nfield = "label"',
    "modalities.values: torch keeps the name 'values' to itself",
    "choose another name",
)
# Recipes: values
recipe_case("text for a whole number", "steps = 4", 'steps = "4"', "train.steps: must be a whole number, not '4'")
recipe_case("a fraction for a whole number", "size = 8", "size = 8.5", "data.size: must be a whole number, not 8.5")
recipe_case("true for a whole number", "seed = 0", "seed = true", "seed: must be a whole number, not True")
recipe_case("text for a list", "[1, 2]", '"1, 2"', "backbone.multipliers: must be a list, not '1, 2'")
recipe_case("a negative size", "size = 8", "size = -8", "data.size: must be from 4 to 256, not -8")
recipe_case("an empty batch", "batch_size = 16", "batch_size = 0", "data.batch_size: must be from 1 to 1048576, not 0")
recipe_case("a learning rate of nan", "[train]", "[train]\nlearning_rate = nan", "train.learning_rate: must be", "nan")
recipe_case(
    "batches of complete samples where none is",
    "batch_size = 16",
    "batch_size = 16\ncomplete_share = 0.5\nkeep = { label = 0.0 }",
    "data.complete_share: every training sample lacks something",
)
case(
    "filling in what z_t carries to the end",
    lambda place: place.recipe(
        ("weight = 0.1", 'weight = 0.1\ncurve = "proportional"'), ("[train]", "[train]\nimpute_from = 1")
    ),
    "train.impute_from: what is missing cannot be filled in",
)
recipe_case("an infinite weight", "weight = 0.1", "weight = inf", "modalities.label.weight: must be a finite number")
recipe_case(
    "an option out of choices",
    "[train]",
    '[train]\nprecision = "fp16"',
    "train.precision: must be one of 'fp32', 'bf16'",
)
# Recipes: parts that do not fit each other
recipe_case("no anchor", 'anchor = "image"', "", "space.anchor: is missing")
recipe_case("an anchor that is absent", 'anchor = "image"', 'anchor = "imgae"', "space.anchor: no modality", "'image'?")
recipe_case(
    "an anchor that is not one-to-one",
    'anchor = "image"',
    'anchor = "label"',
    "space.anchor: 'label' is not",
    "those that can: image",
)
recipe_case(
    "options of the aggregator at the anchor",
    'type = "image"',
    'type = "image"\ncurve = "fading"',
    "modalities.image.curve: unknown key",
)
recipe_case(
    "a size the U-Net cannot halve",
    "size = 8",
    "size = 9",
    "backbone.multipliers: 2 resolutions need",
    "a multiple of 2",
)
recipe_case(
    "heads that do not divide",
    "head_channels = 8",
    "head_channels = 12",
    "backbone.head_channels: 16 channels",
    "use a divisor",
)
recipe_case(
    "parts that do not divide",
    "[train]",
    "[train]\naccumulate = 3",
    "train.accumulate: 3 does not divide data.batch_size 16",
)
recipe_case(
    "a field that the data lacks",
    'type = "label"',
    'type = "label"\nfield = "lable"',
    "modalities.label: the data set has no field 'lable'",
    "its fields: image, label",
)
recipe_case(
    "a label that reads pictures",
    'type = "label"',
    'type = "label"\nfield = "image"',
    "modalities.label: a label is an integer class",
    "uint8 1x8x8",
)
recipe_case(
    "an image that reads labels",
    'type = "image"',
    'type = "image"\nfield = "label"',
    "modalities.image: an image is uint8",
    "int64 scalar",
)
recipe_case(
    "a direction to nowhere",
    "[sample]",
    '[sample]\ndirections = ["lable -> image"]',
    "sample.directions: there is no modality 'lable'",
    "'label'?",
)
case(
    "a direction from what is not aggregated",
    lambda p: p.recipe(
        ("weight = 0.1", 'curve = "none"'), ("[sample]", '[sample]\ndirections = ["joint", "label -> image"]')
    ),
    "sample.directions: 'label -> image' cannot work",
    "curve = 'none'",
    'give modalities.label a curve other than "none"',
)
# Representations: options, and what is learnt before anything is written


def representation(options: str) -> tuple[str, str]:
    """The tiny recipe with a representation in place of the label."""
    return 'type = "label"', f'type = "representation"\nfield = "image"\n{options}'


recipe_case(
    "a representation of labels",
    'type = "label"',
    'type = "representation"',
    "modalities.label: an image is uint8",
    "int64 scalar",
)
recipe_case(
    "an extractor that is unknown", *representation('extractor = "dino"'), "must be one of 'self-trained', 'torchv"
)
recipe_case(
    "an extractor without its network",
    *representation('extractor = "torchvision"'),
    "modalities.label: network: the extractor 'torchvision' needs it",
)
recipe_case(
    "an option of another extractor",
    *representation('network = "resnet18"'),
    "modalities.label: network: is read by the extractor 'torchvision', not by 'self-trained'",
)
recipe_case(
    "weights that are not there",
    *representation('extractor = "torchvision"\nnetwork = "resnet18"\nweights = "nowhere.safetensors"'),
    "modalities.label: nowhere.safetensors: cannot read weights: No such file",
)
recipe_case(
    "weights in a recipe file",
    *representation('extractor = "torchvision"\nnetwork = "resnet18"\nweights = "bad.toml"'),
    "modalities.label: bad.toml: is no safetensors file",
    "save_file(torch.load(",
)
recipe_case(
    "precomputed features in a recipe file",
    *representation('extractor = "precomputed"\nfeatures = "bad.toml"'),
    "modalities.label: bad.toml: is no file of precomputed features",
    "save_features",
)
# Data
recipe_case(
    "no folder of pictures",
    'dataset = "digits"',
    'dataset = "image-folder"\npath = "nowhere"',
    "nowhere: no such folder",
    "PATH/cat/001.png",
)
recipe_case(
    "no path to the pictures", 'dataset = "digits"', 'dataset = "image-folder"', "data.path: is missing (the folder)"
)
case("an empty folder", lambda p: p.pictures(), "pictures: no pictures", "expected one folder for each class")
case(
    "too many unreadable pictures",
    lambda p: p.pictures(*(f"{c}/{i}.png{'!' * (i == 7)}" for c in ("cat", "dog") for i in range(9))),
    "pictures: 2 of 17 pictures cannot be read, more than max_bad = 0.01",
    "pictures/cat/7.png: ",
    "raise data.max_bad",
)
case(
    "pictures beside class folders",
    lambda p: p.pictures("stray.png", *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(9))),
    "pictures: 1 pictures, such as stray.png, lie beside the class folders",
    "PATH/dog/001.webp",
)
case(
    "one class only, and a label",
    lambda p: p.pictures(*(f"cat/{i}.png" for i in range(12))),
    "modalities.label: a label needs at least two classes, and the data has one only: 'cat'",
    "leave the label out",
)
case(
    "no classes, and a label",
    lambda p: p.pictures(*(f"{i}.png" for i in range(12))),
    "modalities.label: the data set has no field 'label'",
    'its fields: image; without field = "..." a modality reads the one that is called as it is',
)
recipe_case(
    "no pairs of pictures",
    'dataset = "digits"',
    'dataset = "paired-folder"\npath = "nowhere"',
    "nowhere: no such folder",
    "PATH/trainA/001.png",
)
recipe_case(
    "one name for two pictures",
    'dataset = "digits"',
    'dataset = "paired-folder"\npath = "."\nnames = ["image"]',
    "data: names must be two different names, not ['image']",
)
recipe_case(
    "no table",
    'dataset = "digits"',
    'dataset = "table"\npath = "nowhere.csv"\npictures = ["image"]\nlabels = ["label"]',
    "nowhere.csv: cannot be read (No such file",
    "expected CSV with a header line",
)
recipe_case(
    "a table without columns",
    'dataset = "digits"',
    'dataset = "table"\npath = "nowhere.csv"',
    "data: name at least one column in pictures, maps, labels or vectors",
)
recipe_case(
    "data of torchvision that is not there",
    'dataset = "digits"',
    'dataset = "torchvision:MNIST"\nroot = "."',
    ".: MNIST cannot be read (Dataset not found)",
    "data.download = true",
)
# Options of mtdiff run
case("--set without =", line("run tiny.toml --set train.steps"), "--set: 'train.steps'", "expected key=value")
case("--set through a value", line("run tiny.toml --set seed.x=1"), "--set: ", "through 'seed', which is a value")
case("--set of an unknown key", line("run tiny.toml --set train.stpes=1"), "train.stpes: unknown key", "'steps'?")
case("--set of a value for a section", line("run tiny.toml --set train=3"), "train: must be a section, not 3")
case("no such device", line("run tiny.toml --device gpu"), "--device: no device 'gpu'", "cuda:0, mps")
case("a device whose package is missing", line("run tiny.toml --device hpu"), "--device: no device 'hpu' here (")
case("a number of thousands of digits", line(f"run tiny.toml --set train.steps={'1' * 5000}"), "train.steps: must be")
case("a device that computes nothing", line("run tiny.toml --device meta"), "--device: the meta device", "cuda:0, mps")
case("a negative --seed", line("run tiny.toml --seed -1"), "'--seed'", "-1 is not in the range x>=0")
case("no recipe at all", line("run"), "Missing argument 'RECIPE'")
case("no such option", line("run tiny.toml --sead 1"), "No such option '--sead'", "--seed")
case("no such command", line("train tiny.toml"), "No such command 'train'")
case("--out that is a file", line("run tiny.toml --out tiny.toml"), "tiny.toml: is not an empty directory")
case("--out below a file", line("run tiny.toml --out tiny.toml/x"), "tiny.toml/x: cannot make the run directory: Not")
case("--out that is not empty", on_run("run tiny.toml --out run"), "run: is not an empty directory", "add --resume")
case("--resume without a run", line("run tiny.toml --resume"), "runs/tiny: there is no run to resume", "--out")
case("--resume of nothing", line("run tiny.toml --resume --out x"), "x: is no run directory", "runs/image+label/1")
case(
    "--resume with a changed recipe",
    on_run(f"{RESUME} --set train.steps=9 --set seed=1"),
    "run: this run has another recipe; different: seed, train.steps",
    "mtdiff run run/recipe.toml --resume --out run",
)
case(
    "--resume where the run's own recipe is damaged",
    on_run("run tiny.toml --resume --out run", edit_recipe("[data]", "[data")),
    "run/recipe.toml: is not valid TOML",
)
for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
    case(
        f"--resume from a {part} that is cut short",
        on_run(RESUME, cut(part)),
        f"run/checkpoints/step-4/{part}: is damaged",
        "none that would do is whole, of steps 4",
    )
# mtdiff sample: the run
case("no run", line("sample nowhere"), "nowhere: is no run directory", "runs/image+label/1")
case("a recipe as run", line("sample tiny.toml"), "tiny.toml: is no run directory: it has no recipe.toml")
case(
    "a run without a checkpoint",
    on_run("sample run", lambda run: shutil.rmtree(run / "checkpoints")),
    "run: has no checkpoint yet",
    "mtdiff run run/recipe.toml --resume --out run",
)
case(
    "an ema file that is cut short",
    on_run("sample run", cut(EMA)),
    "step-4/ema.safetensors: is damaged",
    "of steps 4",
)
case(
    "a checkpoint that was not kept",
    on_run("sample run --checkpoint 3"),
    "run: has no checkpoint of step 3",
    "kept were: 2, 4",
)
case("an ema file with one bit changed", on_run("sample run", flip(EMA)), "step-4/ema.safetensors: is damaged")
case(
    "a state that is cut short",
    on_run("sample run", cut("state.json")),
    "step-4/state.json: is damaged",
    "of steps 4",
)
case("a state with one bit changed", on_run("sample run", flip("state.json")), "step-4/state.json: is damaged")
case(
    "an ema file that is gone",
    on_run("sample run", lambda run: (the_only_checkpoint(run) / EMA).unlink()),
    "step-4/ema.safetensors: is damaged: No such file",
)
case(
    "a run whose recipe was edited to another model",
    on_run("sample run", edit_recipe("channels = 8\n", "channels = 16\n")),
    "run/checkpoints/step-4: does not fit the model of the run's recipe",
    "was recipe.toml edited",
)
# mtdiff sample: what is given
case("an unknown modality", given("lable=3"), "--given: there is no modality 'lable'", "did you mean 'label'?")
case("--given without =", given("label"), "--given: 'label' gives nothing", "expected NAME=VALUE, such as label=3")
case("--given without a value", given("label="), "--given: 'label=' gives nothing", "expected NAME=VALUE")
case("--given twice", given("label=3", "label=4"), "--given: 'label' is given twice", "such as label=3,5")
case("no such class", given("label=ten"), "--given: no class is called 'ten'", "an index 0 to 9")
case("a class out of range", given("label=3,10"), "--given: no class is called '10'", "an index 0 to 9")
case("no such picture", given("image=nowhere.png"), "--given: nowhere.png: no such file or folder", "PNG, JPEG, WebP")
case("a file that is no picture", given("image=tiny.toml"), "--given: tiny.toml: ", "expected PNG, JPEG or WebP")
case("a folder without pictures", given("image=run/checkpoints"), "--given: run/checkpoints: holds no pictures", "PNG")
case("everything given", given("label=3", "again=3", "image=x.png"), "--given: everything is given", "give fewer")
case(
    "values that do not line up",
    given("label=1,2", "again=1,2,3"),
    "--given: the given values do not line up: label has 2, again has 3",
    "give one of each, or equally many",
)
case(
    "a label where the network never sees it",
    on_run("sample run --given label=3", edit_recipe('curve = "fading"', 'curve = "none"')),
    "--given: 'label -> image + again' cannot work",
    "curve = 'none'",
)
# mtdiff sample: what is given from the run's own data
NO_TEST = ('dataset = "digits"', 'dataset = "image-folder"\npath = "pictures"\ntest_share = 0.0\ncolour = false')
case(
    "a split that no data has",
    given("image=@tset"),
    "--given: the data has no split 'tset'",
    "@train or @test; for a file of this name: ./@tset",
)
case("a split without a name", given("image=@"), "--given: the data has no split ''", "@train or @test")
case(
    "two splits",
    given("image=@test", "label=@train"),
    "--given: image=@test and label=@train are of different samples",
    "give all from one split",
)
case(
    "values that do not line up with a split",
    on_run("sample run --num 4 --given image=@test --given label=1,2,3"),
    "--given: the given values do not line up: label has 3, the test split has 4",
)
case(
    "data that is gone",
    on_run("sample run --given image=@train", edit_recipe(NO_TEST[0], NO_TEST[1])),
    "--given: @train is read from the run's own data: pictures: no such folder",
)
case(
    "data that has changed",
    on_run("sample run --given image=@train", edit_recipe("size = 8", "size = 16")),
    "--given: @train is read from the run's own data: data: the data has changed since it was trained on",
    "its field 'image' held uint8 1x8x8, and now uint8 1x16x16",
)
case(
    "data without a test split",
    lambda p: (
        p.pictures(*(f"{c}/{i}.png" for c in "0123456789" for i in range(2)))
        and on_run("sample run --given image=@test", edit_recipe(*NO_TEST))(p)
    ),
    "--given: @test: pictures",
    "or give @train",
)
# mtdiff sample: going on
case(
    "samples to go on with that are not there", on_run("sample run --out x --resume"), "x: there is no job", "job.json"
)
case("samples in a run to go on with", on_run("sample run --out run --resume"), "run: there is no job to go on with")
case("the newest samples, where there are none", on_run("sample run --resume"), "run/samples: there is no job")
case(
    "a job that is damaged",
    on_run("sample run --out run --resume", lambda run: (run / "job.json").write_text('{"step": ')),
    "run/job.json: is damaged",
    "choose another --out",
)
case("no such format", on_run("sample run --format zip"), "'--format'", "'safetensors', 'folder'")
# mtdiff sample: other options
case("--num 0", on_run("sample run --num 0"), "'--num'", "0 is not in the range x>=1")
case("--steps 0", on_run("sample run --steps 0"), "'--steps'", "0 is not in the range 1<=x<=100000")
case("no such sampler", on_run("sample run --sampler ddmi"), "'--sampler'", "'ancestral', 'ddim'")
case("a negative guidance", on_run("sample run --given label=3 --guidance -1"), "'--guidance'", "not in the range x>=0")
case(
    "guidance with nothing to follow",
    on_run("sample run --guidance 1"),
    "--guidance: guidance follows what is known, and nothing is given",
)
case(
    "guidance of a known anchor",
    lambda p: p.pictures("a.png") and on_run("sample run --given image=pictures/a.png --guidance 1")(p),
    "--guidance: guidance pulls on the anchor, 'image', which is given itself",
)
case(
    "guidance by a context that the network never saw",
    on_run("sample run --given label=3 --guidance 1 --guide context"),
    "--guidance: guidance by context needs a network that is told label",
    'diffusion.conditioning = "observe"',
)
case(
    "a guide of no guidance", on_run("sample run --given label=3 --guide decoder"), "--guide: without guidance it does"
)
case("more steps than any recipe may have", on_run("sample run --steps 200000"), "'--steps'", "1<=x<=100000")
case("samples where something is", on_run("sample run --out run"), "run: is not an empty folder", "another --out")
case("samples on no such device", on_run("sample run --device gpu"), "--device: no device 'gpu'", "auto, cpu")
case("a file where a run is due", on_run("sample run/recipe.toml"), "is no run directory", "runs/image+label/1")
# Paths that the system does not even look at
LONG = "x" * 300
for command in (f"run {LONG}", f"run tiny.toml --out {LONG}", f"sample {LONG}", f"data pack digits --out {LONG}",
                f"plugins new other --out {LONG}"):  # fmt: skip
    case(f"a name that is too long: {command[:20]}", line(command), f"{LONG}", "File name too long")
for dataset in ('image-folder"\npath', 'paired-folder"\npath', 'torchvision:MNIST"\nroot',
                'table"\nlabels = ["label"]\npath'):  # fmt: skip
    recipe_case(
        f"the home of nobody: {dataset[:12]}",
        'dataset = "digits"',
        f'dataset = "{dataset} = "~nobody-of-that-name/x.csv"',
        "~nobody-of-that-name/x.csv: cannot be found",
        "~name that of a user",
    )
case(
    "a block that is never all noise",
    line(
        "recipes validate tiny.toml --set space.aggregator=blocks --set modalities.label.log_snr_shift=10 "
        "--set diffusion.schedule=linear"
    ),
    "modalities.label: its noise is 0.73 at most",
    "a smaller log_snr_shift",
)
case(
    "a block that is noise to the last",
    line(
        "recipes validate tiny.toml --set space.aggregator=blocks --set modalities.label.log_snr_shift=-10 "
        "--set diffusion.log_snr_shift=-3"
    ),
    "modalities.label: its noise is 0.97 at least",
    "nearer to 0",
)
case(
    "a label to be imputed that z_t carries to the last",
    line("recipes validate tiny.toml --set train.impute_from=2 --set modalities.label.curve=proportional"),
    "train.impute_from: what is missing cannot be filled in: z_t carries 'label' at the lowest noise still",
)
case("a chain of one step", line("recipes validate tiny.toml --set diffusion.steps=1"), "diffusion.steps: must be at")
# Listings
case("no such component", line("plugins show labe"), "no component or plugin is called 'labe'", "did you mean 'label'?")
case("no such plugin", line("plugins show x/label"), "no component or plugin is called 'x/label'", "allowed: ")
case("no such recipe to show", line("recipes show image-label"), "image-label: is no recipe", "'image+label'?")
case("no such recipe to validate", line("recipes validate x.toml"), "x.toml: is no recipe file", "image+label")
case("a recipe to show that is no text", file(b"\xff", "recipes show bad.toml"), "bad.toml: is not UTF-8 text (byte 0")


def message_of(stderr: str) -> str:
    """The one message; fails if there is more than one, or anything beside it."""
    lines = stderr.splitlines()
    if lines[0].startswith("Usage: "):  # click's own: usage, where help is, the message
        assert [line.split()[0] for line in lines if line] == ["Usage:", "Try", "Error:"]
        return lines[-1]
    assert lines[0].startswith("error: ")
    assert all(line.startswith("  ") for line in lines[1:]), "anything past the first line is indented under it"
    return stderr


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_answered_with_one_message_and_nothing_is_written(what, place, mtdiff):
    command, expected = CASES[what]
    arguments = command(place)
    before = place.written()
    code, stdout, stderr = mtdiff(*arguments)
    assert "Traceback" not in stderr
    assert code == 2
    assert stdout == ""
    message = message_of(stderr)
    for part in expected:
        assert part in message
    assert place.written() == before


def test_the_places_are_sound_so_that_only_what_is_tried_can_be_wrong(place, mtdiff):
    place.copy_run()
    assert mtdiff("sample", "run", "--num", 1, "--steps", 1)[0] == 0
    place.pictures(*(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(9)))
    code, stdout, stderr = mtdiff("recipes", "validate", "bad.toml")
    assert (code, stderr) == (0, "")
    assert "bad.toml is valid: 17 training samples" in stdout


def test_debug_shows_the_traceback_of_bad_input_beside_the_message(place, mtdiff):
    code, _, stderr = mtdiff("--debug", "sample", "nowhere")
    assert code == 2
    assert "Traceback" in stderr
    assert "error: nowhere: is no run directory" in stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_taken_for_a_fault_of_ours(mtdiff, tiny, monkeypatch, error):
    def fail(*_arguments):
        raise error

    monkeypatch.setattr("mtdiff_core.training.trainer.Trainer.optimize", fail)
    code, _, stderr = mtdiff("run", tiny)
    assert code == 2
    assert "not enough memory" in stderr
    assert "data.batch_size" in stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_folder_that_is_not_the_users_is_taken_for_a_fault_of_ours(mtdiff, monkeypatch, number):
    looked = Path.stat

    def look(path, **options):
        if "theirs" in path.parts:  # nothing is refused to an administrator, who may run the tests
            raise OSError(number, os.strerror(number), str(path))
        return looked(path, **options)

    monkeypatch.setattr(Path, "stat", look)
    code, _, stderr = mtdiff("sample", "theirs/run")
    assert code == 2
    assert stderr.startswith("error: theirs/run")
    assert f"cannot be used ({os.strerror(number)})" in stderr
    assert "Traceback" not in stderr
