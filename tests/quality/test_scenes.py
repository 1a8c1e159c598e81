"""Recipes on scenes, trained and judged as a user would run them: pytest -m quality -s tests/quality"""

import pytest
import torch

from mtdiff_core.cli.console import load_registry
from mtdiff_core.training.run import load_trained_model
from mtdiff_datasets.scenes.world import LANDSCAPE
from tests.quality.runs import linear_probe, nearest_of_100, psnr, report, sample, share, train, write_pictures
from tests.quality.scene_judge import mean_iou, scenes, train_scene_judge

N = 500  # all test scenes


@pytest.fixture(scope="module")
def real():
    return {name: x[:N] for name, x in scenes("test").items()}


@pytest.fixture(scope="module")
def judge():
    return train_scene_judge(scenes("train"))


@pytest.mark.quality
def test_segmentations_and_images_do_not_fit_each_other(real, judge, tmp_path):
    run = train("image+segmentation", 0, tmp_path)
    read = sample(run, tmp_path, "--given", "image=@test", "--num", N)
    joint = sample(run, tmp_path, "--num", N)
    painted = sample(run, tmp_path, "--given", "segmentation=@test", "--num", N)
    common = scenes("train")["segmentation"].mode(dim=0).values.expand(N, -1, -1)
    figures = {
        "judge": mean_iou(judge.segmentation(real["image"]), real["segmentation"]),
        "image_to_segmentation": mean_iou(read["segmentation"], real["segmentation"]),
        "image_to_segmentation_commonest": mean_iou(common, real["segmentation"]),
        "joint": mean_iou(joint["segmentation"], judge.segmentation(joint["image"])),
        "joint_shuffled": mean_iou(joint["segmentation"].roll(1, 0), judge.segmentation(joint["image"])),
        "segmentation_to_image": mean_iou(judge.segmentation(painted["image"]), painted["segmentation"]),
        "segmentation_to_image_pixels_right": share(judge.segmentation(painted["image"]) == painted["segmentation"]),
    }
    report(f"image+segmentation, mIoU, n = {N}", figures)
    assert figures["image_to_segmentation"] >= 0.90
    assert figures["joint"] >= 0.80


@pytest.mark.quality
def test_a_translation_is_hardly_nearer_than_its_input(real, tmp_path):
    run = train("paired-image", 0, tmp_path)
    figures = {}
    for known, wanted, field in (("day", "night", "night"), ("night", "day", "image")):
        found = sample(run, tmp_path, "--given", f"{known}=@test", "--num", N)
        figures[f"{known}_to_{wanted}"] = psnr(found[wanted], real[field])
        figures[f"{known}_copied"] = psnr(found[known], real[field])
    report(f"paired-image, PSNR in dB, n = {N}", figures)
    assert figures["day_to_night"] >= figures["day_copied"] + 6
    assert figures["night_to_day"] >= figures["night_copied"] + 6


@pytest.mark.quality
def test_a_direction_of_the_recipe_with_everything_is_at_chance(real, judge, tmp_path):
    run = train("image+label+segmentation+representation", 0, tmp_path)
    modality = (
        load_trained_model(run, load_registry(), torch.device("cpu")).experiment.sources["representation"].modality
    )
    of_real = modality.parse(str(write_pictures(real["image"], tmp_path / "real")))
    known_scenes = {name: x[:1000] for name, x in scenes("train").items()}
    of_known = modality.parse(str(write_pictures(known_scenes["image"], tmp_path / "known")))
    probe = linear_probe(of_known, known_scenes["label"])
    objects = torch.arange(len(LANDSCAPE), len(LANDSCAPE) + 8)

    def object_of(maps):
        """The label that a map shows: its commonest object."""
        counts = (maps[..., None] == objects).sum(dim=(1, 2))
        return counts.argmax(dim=1)

    object_in = {"segmentation": object_of, "representation": probe, "image": judge.labels}

    def judged(wanted, found):
        """Of how many scenes what was generated shows the object."""
        return share((found if wanted == "label" else object_in[wanted](found)) == real["label"])

    class_means = torch.stack([of_known[known_scenes["label"] == c].mean(dim=0) for c in range(8)])
    figures, at_chance = {"representation, probe of real ones": judged("representation", of_real)}, []
    figures["representation, mean of the class, nearest of 100"] = nearest_of_100(class_means[real["label"]], of_real)
    least = 1 / 8 + 5 * (1 / 8 * 7 / 8 / N) ** 0.5  # 5 standard deviations above chance
    names = ("image", "label", "segmentation", "representation")
    for known in names:
        made = sample(run, tmp_path, "--given", f"{known}=@test", "--num", N)
        for wanted in (name for name in names if name != known):
            figures[f"{known} -> {wanted}"] = judged(wanted, made[wanted])
            if figures[f"{known} -> {wanted}"] <= least:
                at_chance.append(f"{known} -> {wanted}")
        if known != "segmentation":
            figures[f"{known} -> segmentation, mIoU"] = mean_iou(made["segmentation"], real["segmentation"])
        if known != "representation":
            near = figures[f"{known} -> representation, nearest of 100"] = nearest_of_100(
                made["representation"], of_real
            )
            if near <= 0.01 + 5 * (0.01 * 0.99 / N) ** 0.5:
                at_chance.append(f"{known} -> representation, nearest of 100")
        if known in ("segmentation", "representation"):
            own = modality.parse(str(write_pictures(made["image"], tmp_path / f"from-{known}")))
            figures[f"{known} -> image, representation nearest of 100"] = nearest_of_100(own, of_real)
        if known == "segmentation":
            figures["segmentation -> image, mIoU"] = mean_iou(judge.segmentation(made["image"]), real["segmentation"])
    joint = sample(run, tmp_path, "--num", N)
    for name, read in object_in.items():
        figures[f"joint: label and {name}"] = share(read(joint[name]) == joint["label"])
        if figures[f"joint: label and {name}"] <= least:
            at_chance.append(f"joint: label and {name}")
    report(f"everything, n = {N}, chance 0.125 for objects and 0.01 among 100", figures)
    assert not at_chance
