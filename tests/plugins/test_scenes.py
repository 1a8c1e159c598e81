"""The procedural scenes: what they say of themselves, what they depend on, and that all three views are one scene."""

from random import Random

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtdiff_core import MissingSplitError
from mtdiff_datasets.scenes import Scenes, SceneSamples
from mtdiff_datasets.scenes.objects import OBJECTS
from mtdiff_datasets.scenes.painter import FINE, covered, paint
from mtdiff_datasets.scenes.patch import WORLD, Patch, ellipse, rectangle
from mtdiff_datasets.scenes.world import CATEGORIES, LANDSCAPE, PALETTES, Scene, draw_scene

COUNT = 64  # scenes that are looked at where all are meant


@pytest.fixture(scope="module")
def scenes():
    samples = Scenes(train=COUNT).open("train")
    rows = [samples[i] for i in range(COUNT)]
    return samples.fields, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def same(first, second):
    return all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_field_holds_something_else_than_it_says(size):
    samples = Scenes(size=size, train=8).open("train")
    for index in range(8):
        sample = samples[index]
        assert sample.keys() == samples.fields.keys() == {"image", "night", "label", "segmentation"}
        for name, spec in samples.fields.items():
            assert sample[name].shape == spec.shape
            assert sample[name].dtype == getattr(torch, spec.dtype)
            if spec.classes:
                assert sample[name].max() < len(spec.classes)


def test_more_scenes_than_memory_holds_are_kept_or_differ_when_painted_again(monkeypatch):
    monkeypatch.setattr("mtdiff_datasets.scenes.MOST_KEPT", 3 * (7 * 16 * 16 + 8))
    painted = []
    monkeypatch.setattr(
        "mtdiff_datasets.scenes.SceneSamples._painted",
        lambda samples, index, paint=SceneSamples._painted: painted.append(index) or paint(samples, index),
    )
    samples = Scenes(size=16, train=5).open("train")
    first, again = ([samples[i] for i in range(5)] for _ in range(2))
    assert all(map(same, first, again))
    assert painted == [0, 1, 2, 3, 4, 3, 4], "three fit"


def test_a_class_is_rarer_than_another(scenes):
    _, tensors = scenes
    assert tensors["label"].bincount(minlength=len(OBJECTS)).tolist() == [COUNT // len(OBJECTS)] * len(OBJECTS)


def test_the_segmentation_shows_another_object_than_the_label_names_or_too_little_of_it(scenes):
    fields, tensors = scenes
    for label, regions in zip(tensors["label"].tolist(), tensors["segmentation"], strict=True):
        own = fields["segmentation"].classes.index(fields["label"].classes[label])
        areas = regions.flatten().bincount(minlength=len(CATEGORIES))
        assert areas[own] > 50, "about a twentieth of the picture"
        assert not areas[[i for i in range(len(LANDSCAPE), len(CATEGORIES)) if i != own]].any()


def test_sky_sun_or_ground_is_missing_from_a_scene(scenes):
    _, tensors = scenes
    for regions in tensors["segmentation"]:
        areas = dict(zip(CATEGORIES, regions.flatten().bincount(minlength=len(CATEGORIES)).tolist(), strict=True))
        assert areas["sky"] > 100
        assert areas["sun"] > 8
        assert areas["hills"] > 20
        assert areas["ground"] + areas["water"] > 100


def test_a_sample_depends_on_how_many_there_are_or_on_what_was_asked_before():
    few, many = Scenes(train=9).open("train"), Scenes(train=400).open("train")
    backwards = [few[i] for i in reversed(range(9))][::-1]
    assert all(same(backwards[i], many[i]) for i in range(9))


def test_a_sample_changes_when_it_is_asked_for_again_or_when_its_copy_is_changed():
    samples = Scenes(train=2).open("train")
    first = samples[1]
    first.pop("label")
    assert same(first, samples[1])
    assert "label" in samples[1]


@pytest.mark.parametrize(
    ("options", "split"), [({"data_seed": 1}, "train"), ({}, "test")], ids=["another seed", "the other split"]
)
def test_different_scenes_are_alike(options, split):
    first, second = Scenes().open("train"), Scenes(**options).open(split)
    assert not any(first[i]["image"].equal(second[i]["image"]) for i in range(16))


def test_two_scenes_of_one_split_are_alike(scenes):
    assert len(torch.unique(scenes[1]["image"], dim=0)) == COUNT


def test_iteration_never_ends_or_an_index_is_out_of_range():
    samples = Scenes(train=3).open("train")
    assert len(list(samples)) == len(samples) == 3
    with pytest.raises(IndexError):
        samples[3]


def test_an_empty_split_is_opened():
    with pytest.raises(MissingSplitError, match=r"data\.test = 0: there are no scenes"):
        Scenes(test=0).open("test")


def test_night_is_brighter_than_day_where_nothing_is_lit(scenes):
    _, tensors = scenes
    day, night = (tensors[name].float().mean(dim=(1, 2, 3)) for name in ("image", "night"))
    assert (night < 0.65 * day).all()
    ground = (tensors["segmentation"] == CATEGORIES.index("ground"))[:, None].expand(-1, 3, -1, -1)
    assert tensors["night"][ground].float().mean() < 0.5 * tensors["image"][ground].float().mean()


def test_the_moon_is_not_where_the_sun_was_or_does_not_shine(scenes):
    _, tensors = scenes
    disc = tensors["segmentation"] == CATEGORIES.index("sun")
    sky = tensors["segmentation"] == CATEGORIES.index("sky")
    for picture, moon, around in zip(tensors["night"].float().mean(dim=1), disc, sky, strict=True):
        assert picture[moon].mean() > 2 * picture[around].mean()


@pytest.mark.parametrize("kind", ["house", "car", "boat", "balloon", "windmill", "lighthouse", "castle"])
def test_an_object_with_lamps_is_dark_at_night(kind):
    scene = draw_scene(kind, Random(5))
    unlit = attrs.evolve(scene, patches=tuple(attrs.evolve(patch, light="#000000") for patch in scene.patches))
    with_lamps, without = paint(scene, 32), paint(unlit, 32)
    own = with_lamps.segmentation == CATEGORIES.index(kind)
    brighter = (with_lamps.night.float() - without.night.float()).mean(dim=0)[own]
    assert brighter.max() > 40
    assert with_lamps.day.equal(without.day), "lamps are lit by day"
    assert with_lamps.segmentation.equal(without.segmentation)


# Painting, against what is known of simple shapes


def one_patch(outline, day="#ffffff"):
    return Scene(
        palette=PALETTES[0], sun=(-100.0, -100.0), patches=(Patch(outline=tuple(outline), day=day, category="ground"),)
    )


@pytest.mark.parametrize(("edge", "columns"), [(10.3, 10), (10.7, 11), (0.3, 0), (31.7, 32)])
def test_a_pixel_is_of_a_class_that_covers_less_than_half_of_it(edge, columns):
    regions = paint(one_patch(rectangle(-1, -1, edge, WORLD + 1)), 32).segmentation
    expected = torch.zeros(32, 32, dtype=torch.uint8)
    expected[:, :columns] = CATEGORIES.index("ground")
    assert regions.equal(expected)


def test_an_edge_that_cuts_a_pixel_is_jagged():
    white, black = (
        paint(one_patch(rectangle(-1, -1, 10.5, 33), c), 32).day[:, :, 10].float() for c in ("#ffffff", "#000000")
    )
    torch.testing.assert_close((white - black) / 255, torch.full((3, 32), 0.5), atol=0.1, rtol=0)


def test_a_disc_has_another_area_than_pi_r_squared():
    area = (paint(one_patch(ellipse(16, 16, 10, corners=90)), 64).segmentation > 0).sum() / 4
    assert abs(float(area) - 3.14159 * 100) < 5


def test_a_patch_in_the_background_covers_what_is_before_it():
    behind, before = (
        Patch(outline=tuple(rectangle(0, 0, 32, 32)), day=c, category=n)
        for c, n in (("#ff0000", "hills"), ("#00ff00", "ground"))
    )
    painting = paint(Scene(palette=PALETTES[0], sun=(0.0, 0.0), patches=(behind, before)), 16)
    assert painting.segmentation[1:-1, 1:-1].unique().tolist() == [CATEGORIES.index("ground")]
    assert painting.day[:, 8, 8].tolist() == [0, 255, 0]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 4), count=st.integers(1, 20))
def test_fine_pixels_are_counted_in_another_block_or_category(seed, size, count):
    fine = torch.randint(0, count, (size * FINE, size * FINE), generator=torch.Generator().manual_seed(seed)).byte()
    blocks = fine.unfold(0, FINE, FINE).unfold(1, FINE, FINE).reshape(size, size, -1)
    expected = torch.stack([(blocks == k).sum(dim=-1) for k in range(count)], dim=-1)
    assert covered(fine, count).equal(expected)
