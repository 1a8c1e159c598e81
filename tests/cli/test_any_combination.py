"""Combinations that nobody listed: what the registry brings is combined at random, trained, sampled and reloaded."""

import tempfile
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mtdiff_core.aggregators.curves import CURVES
from mtdiff_core.errors import UserError
from mtdiff_core.recipe.builder import build_recipe
from mtdiff_core.recipe.sections import SAMPLERS
from mtdiff_core.registry.registry import Registry
from tests.autoencoders import small_autoencoder
from tests.conftest import CLONE

SHIPPED = sorted((CLONE / "recipes").rglob("*.toml"))
# Of the fields of the data set ``scenes``, what each modality may read; whatever else is registered must be added here.
FIELDS = {
    "image": ["image", "night"],
    "paired_image": ["image", "night"],
    "masked_image": ["image", "night"],
    "label": ["label"],
    "segmentation": ["segmentation"],
    "representation": ["image", "night"],
    "latent-image": ["image", "night"],
}
QUICK = {"representation": {"steps": 2, "dimensions": 4, "width": 8}}
ANCHORS = ["image", "paired_image", "latent-image"]
# What can stand beside a smaller space than its pictures, and what can be the anchor only.
OF_ANY_SIZE, ALONE = ["label", "representation"], ["latent-image"]


@st.composite
def combinations(draw):
    """A recipe's tables, and a modality to be given."""
    anchor = draw(st.sampled_from(ANCHORS))
    able = OF_ANY_SIZE if anchor == "latent-image" else sorted(set(FIELDS) - set(ALONE))
    others = draw(st.lists(st.sampled_from(able), min_size=1, max_size=3, unique=True))
    names = {"a": anchor, **{f"m{i}": kind for i, kind in enumerate(others)}}
    aggregator = draw(st.sampled_from(["linear", "blocks"]))
    observes = draw(st.booleans())
    modalities = {}
    for name, kind in names.items():
        table = {"type": kind, "field": draw(st.sampled_from(FIELDS[kind])), **QUICK.get(kind, {})}
        if name != "a":
            table["curve"] = draw(st.sampled_from(sorted(CURVES)))
        modalities[name] = table
    tables = {
        "name": "any",
        "seed": draw(st.integers(0, 3)),
        "data": {"dataset": "scenes", "size": 16, "train": 24, "test": 8, "batch_size": 8},
        "space": {"anchor": "a", "aggregator": aggregator},
        "modalities": modalities,
        "backbone": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_channels": 8},
        "diffusion": {"conditioning": "observe" if observes else "replace"},
        "train": {"steps": 3, "grid_every": 0, "warmup_steps": 1},
        "sample": {"steps": 2, "num": 2, "sampler": draw(st.sampled_from(SAMPLERS))},
    }
    if draw(st.booleans()):
        tables["data"]["keep"] = {draw(st.sampled_from(sorted(names))): 0.5}
        tables["data"]["complete_share"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return tables


def test_a_registered_modality_is_never_combined():
    assert set(Registry().names("modality")) == set(FIELDS)


@settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)
@given(tables=combinations(), data=st.data())
def test_a_combination_cannot_be_trained_sampled_or_reloaded(tables, data, mtdiff):
    recipe = build_recipe(tables, Registry(), "any.toml")
    asked = data.draw(st.sampled_from(recipe.directions()))
    tables["sample"]["directions"] = [str(asked)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTDIFF_CACHE", str(Path(folder) / "cache"))
        file, run = Path(folder) / "any.toml", Path(folder) / "run"
        if tables["modalities"]["a"]["type"] == "latent-image":
            tables["modalities"]["a"]["vae"] = str(small_autoencoder(Path(folder) / "vae", channels=3))
        file.write_text(tomli_w.dumps(tables))
        assert mtdiff("run", file, "--out", run)[0] == 0
        made = load_file(run / "samples" / "samples.safetensors")
        assert set(made) == set(tables["modalities"])
        assert all(len(values) == 2 for values in made.values())
        assert (run / "samples" / "grid.png").stat().st_size > 0
        assert mtdiff("sample", run, "--num", 2, "--out", Path(folder) / "more")[0] == 0  # from the checkpoint alone
        assert set(load_file(Path(folder) / "more" / "samples.safetensors")) == set(made)


def test_a_direction_that_nothing_carries_is_offered():
    tables = {
        "name": "x",
        "data": {"dataset": "scenes"},
        "space": {"anchor": "a"},
        "modalities": {
            "a": {"type": "image", "field": "image"},
            "m": {"type": "label", "field": "label", "curve": "none"},
        },
        "sample": {"directions": ["m -> a"]},
    }
    with pytest.raises(UserError, match="never see what is given"):
        build_recipe(tables, Registry(), "x.toml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_does_not_train_and_sample(path, mtdiff, tmp_path):
    quick = ["train.steps=2", "train.grid_every=0", "sample.steps=2", "sample.num=2", "data.batch_size=4"]
    types = {name: table["type"] for name, table in tomllib.loads(path.read_text())["modalities"].items()}
    quick += [f"modalities.{name}.steps={QUICK[kind]['steps']}" for name, kind in types.items() if kind in QUICK]
    settings = [word for setting in quick for word in ("--set", setting)]
    assert mtdiff("run", path, "--out", tmp_path / "run", *settings)[0] == 0
    assert (tmp_path / "run" / "samples" / "grid.png").is_file()
