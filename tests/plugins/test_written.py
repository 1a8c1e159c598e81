"""Modalities as a data set keeps them: what was written is what is read again."""

import errno
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from torchvision.transforms.v2.functional import pil_to_tensor

from mtdiff_core import FieldSpec, UserError
from mtdiff_core.randomness import generator
from mtdiff_image import Image
from mtdiff_label import Label
from mtdiff_mask import MaskedImage, Segmentation
from mtdiff_mask.palette import voc_colour
from mtdiff_paired_image import PairedImage

STEMS = ("000004", "000005", "000006")


def pictures(channels, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, channels, 6, 6), generator=random, dtype=torch.uint8)


def prepared(modality, values):
    spec = FieldSpec(shape=tuple(values.shape[1:]), dtype=str(values.dtype).removeprefix("torch."), classes=CLASSES)
    bound = modality.bind(spec)
    return bound, bound.prepare(values, generator(0))


CLASSES = ("ant", "bee", "cat")
MAPS = torch.arange(3 * 36, dtype=torch.uint8).reshape(3, 6, 6) % 3


@pytest.mark.parametrize(
    ("modality", "values"),
    [
        (Image(), pictures(1)),
        (Image(), pictures(3)),
        (PairedImage(), pictures(3)),
        (Segmentation(), MAPS),
        (Segmentation(ignore=255), torch.where(MAPS == 2, 255, MAPS)),
    ],
    ids=["grey", "rgb", "paired", "classes", "unlabelled"],
)
def test_a_file_gives_other_values_than_were_written(tmp_path, modality, values):
    bound, known = prepared(modality, values)
    cells = bound.write(known, tmp_path / "some", STEMS)
    assert cells == [f"some/{stem}.png" for stem in STEMS]
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == [f"{stem}.png" for stem in STEMS]
    assert torch.cat([bound.parse(str(tmp_path / cell)) for cell in cells]).equal(known)


@pytest.mark.parametrize(("channels", "mode"), [(1, "LA"), (3, "RGBA")])
def test_a_hidden_pixel_is_opaque_or_a_visible_one_is_not(tmp_path, channels, mode):
    bound, known = prepared(MaskedImage(kinds=("patches",), patch=2), pictures(channels))
    for cell, value in zip(bound.write(known, tmp_path / "part", STEMS), bound.natural(known), strict=True):
        with Picture.open(tmp_path / cell) as file:
            assert file.mode == mode
            assert pil_to_tensor(file).equal((value * 255).round().byte())


def test_a_class_map_loses_its_colours_or_what_is_unlabelled_has_a_class_s(tmp_path):
    bound, known = prepared(Segmentation(palette=("#ff0000", "#00ff00", "#0000ff"), ignore=255), MAPS)
    known[0, 0, 0] = 255
    bound.write(known, tmp_path, STEMS)
    with Picture.open(tmp_path / "000004.png") as file:
        assert file.mode == "P"
        shown = file.convert("RGB")
    assert [shown.getpixel((x, 0)) for x in range(3)] == [voc_colour(255), (0, 255, 0), (0, 0, 255)]


def test_a_label_is_written_as_a_number_or_a_file(tmp_path):
    bound, known = prepared(Label(), torch.tensor([2, 0, 1]))
    assert bound.write(known, tmp_path / "label", STEMS) == ["cat", "ant", "bee"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("modality", "values", "kind", "options"),
    [
        (Image(), pictures(1), "pictures", {"size": 6, "colour": False}),
        (PairedImage(), pictures(3), "pictures", {"size": 6, "colour": True}),
        (Segmentation(), MAPS, "maps", {"size": 6, "map_classes": list(CLASSES)}),
        (Label(), torch.tensor([0]), "labels", {}),
    ],
)
def test_a_table_reads_a_modality_as_something_else(modality, values, kind, options):
    bound, _ = prepared(modality, values)
    assert bound.table_kind == kind
    assert bound.table_options() == options


@pytest.mark.parametrize(("modality", "values"), [(Image(), pictures(1)), (Segmentation(), MAPS)])
def test_a_full_disk_leaves_half_a_picture(tmp_path, monkeypatch, modality, values):
    def fail(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    bound, known = prepared(modality, values)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write 000004\.png: the disk is full"):
        bound.write(known, tmp_path / "some", STEMS)
    assert not list((tmp_path / "some").iterdir())
