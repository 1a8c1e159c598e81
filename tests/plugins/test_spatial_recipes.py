"""Recipes with masked images, segmentations and pairs: trained for three steps and sampled in every direction."""

import json

import pytest
import torch
from PIL import Image as Picture
from safetensors import safe_open
from safetensors.torch import load_file

from mtdiff_image import Digits
from mtdiff_mask.files import write_indexed_png
from tests.conftest import TINY

SHORT = TINY.replace("steps = 4", "steps = 3")
LABEL = '[modalities.label]\ntype = "label"\nweight = 0.1\n'
MASKED = SHORT.replace(LABEL, '[modalities.part]\ntype = "masked_image"\nfield = "image"\npatch = 2\nflip = true\n')
SQUARES = SHORT.replace('dataset = "digits"\nsize = 8', 'dataset = "squares"')
SEGMENTED = SQUARES.replace(LABEL, '[modalities.map]\ntype = "segmentation"\nignore = 255\nhidden = 8\n')
PAIRED = SQUARES.replace(LABEL, '[modalities.night]\ntype = "paired_image"\nhidden = 8\nblocks = 2\n')


@pytest.fixture
def run(mtdiff, tmp_path, squares):
    """Run a recipe; gives its samples and the directions they are in."""

    def call(text, *overrides):
        (tmp_path / "recipe.toml").write_text(text)
        settings = [word for override in overrides for word in ("--set", override)]
        code, _, errors = mtdiff("run", "recipe.toml", "--out", "run", *settings)
        assert code == 0, errors
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert all(torch.tensor(value).isfinite() for line in lines for key, value in line.items() if "loss" in key)
        return samples(tmp_path / "run" / "samples")

    return call


def samples(folder):
    """Samples by modality, and which rows are which direction's."""
    with safe_open(folder / "samples.safetensors", "pt") as file:
        ranges = json.loads(file.metadata()["mtdiff"])["directions"]
    with Picture.open(folder / "grid.png") as grid:
        assert grid.size > (64, 64)
    return load_file(folder / "samples.safetensors"), {r["direction"]: slice(r["start"], r["stop"]) for r in ranges}


@pytest.mark.parametrize("aggregator", ["linear", "blocks"])
def test_a_recipe_with_a_masked_image_fails(run, mtdiff, tmp_path, aggregator):
    tensors, rows = run(MASKED, f"space.aggregator={aggregator}")
    image, part = tensors["image"], tensors["part"]
    assert part.shape[1:] == (2, 8, 8)
    assert set(part[:, 1].unique().tolist()) <= {0, 1}
    assert (part[:, 0] * (1 - part[:, 1]) == 0).all()
    given = rows["image -> part"], rows["part -> image"]
    assert all(image[r].shape[0] == part[r].shape[0] == 4 for r in given)

    Picture.new("L", (8, 8), 200).save(tmp_path / "photo.png")
    code, _, errors = mtdiff(
        "sample", "run", "--given", "part=photo.png:left", "--num", 2, "--sampler", "ancestral", "--out", "out"
    )
    assert code == 0, errors
    restored, known = (samples(tmp_path / "out")[0][name] for name in ("image", "part"))
    assert restored[..., 4:].equal(known[:, :1, :, 4:]), "what is visible is kept to the last bit"
    assert restored[..., :4].unique().numel() > 1
    assert (known[:, 1, :, :4] == 0).all()
    torch.testing.assert_close(known[:, 0, :, 4:], torch.full((2, 8, 4), 200 / 255))


def test_masks_over_the_run_s_own_pictures_change_from_call_to_call_or_never(run, mtdiff, tmp_path):
    run(MASKED, "sample.batch_size=2")
    values = {}
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, _, errors = mtdiff("sample", "run", "--given", "part=@test", "--num", 5, "--seed", seed, "--out", out)
        assert code == 0, errors
        values[out] = samples(tmp_path / out)[0]["part"]
    assert values["a"].equal(values["b"])
    assert not values["a"][:, 1].equal(values["c"][:, 1])
    held_out = Digits(size=8).open("test")
    pictures = torch.stack([held_out[i]["image"][0] for i in range(5)]) / 255
    for part in values.values():
        assert len({tuple(mask.flatten().tolist()) for mask in part[:, 1]}) > 1, "every picture has the same mask"
        torch.testing.assert_close(part[:, 0], pictures * part[:, 1])


@pytest.mark.parametrize("aggregator", ["linear", "blocks"])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_recipe_with_a_segmentation_fails(run, mtdiff, tmp_path, aggregator, sampler):
    tensors, _ = run(SEGMENTED, f"space.aggregator={aggregator}", f"sample.sampler={sampler}")
    assert tensors["map"].dtype == torch.int64
    assert tensors["map"].shape[1:] == (8, 8)
    assert set(tensors["map"].unique().tolist()) <= {0, 1, 2, 255}

    stored = torch.randint(3, (8, 8))
    write_indexed_png(tmp_path / "map.png", stored, [(0, 0, 0), (99, 99, 99), (255, 255, 255)])
    code, _, errors = mtdiff("sample", "run", "--given", "map=map.png", "--num", 2, "--out", "out")
    assert code == 0, errors
    assert samples(tmp_path / "out")[0]["map"].equal(stored.expand(2, 8, 8))


@pytest.mark.parametrize("settings", [(), ("space.anchor=night",), ("space.aggregator=blocks",)])
def test_a_recipe_with_a_pair_fails(run, settings):
    tensors, rows = run(PAIRED, *settings)
    assert {"joint -> image + night", "image -> night", "night -> image"} == set(rows)
    for values in tensors.values():
        assert values.shape[1:] == (1, 8, 8)
        assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        (MASKED, "space.anchor=part", "'part' is not encoded one-to-one, so it cannot be the anchor"),
        (MASKED, 'modalities.part.kinds=["half","circle"]', "modalities.part.kinds: must be one of 'patches', 'half'"),
        (MASKED, "modalities.part.kinds=[]", "modalities.part: kinds must name at least one of patches, half"),
        (MASKED, "modalities.part.kind_weights=[1, 2]", "modalities.part: kind_weights needs one number for each"),
        (MASKED, "modalities.part.ratio_max=0.05", "modalities.part: ratio_min 0.1 is above ratio_max 0.05"),
        (MASKED, "modalities.part.field=label", "modalities.part: an image is uint8 of shape (1 or 3, H, W)"),
        (SEGMENTED, 'modalities.map.palette=["red"]', "modalities.map: palette must hold colours such as '#ff8000'"),
        (SEGMENTED, 'modalities.map.palette=["#ff0000"]', "modalities.map: palette has 1 colours, and the data 3"),
        (SEGMENTED, "modalities.map.ignore=-2", "modalities.map.ignore: must be from -1 to 255, not -2"),
        (SEGMENTED, "modalities.map.field=image", "modalities.map: a segmentation is uint8 or int64 of shape (H, W)"),
        (SEGMENTED, "modalities.map.ignore=-1", "class 255 is outside the data's classes, 0 to 2"),
        (PAIRED, "modalities.night.field=map", "modalities.night: an image is uint8 of shape (1 or 3, H, W)"),
    ],
)
def test_a_wrong_recipe_is_answered_with_more_than_one_message(mtdiff, tmp_path, squares, text, setting, message):
    (tmp_path / "recipe.toml").write_text(text)
    code, _, errors = mtdiff("run", "recipe.toml", "--set", setting, "--out", "run")
    assert code == 2
    assert message in errors
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
