"""The judge, and what it is asked: does it learn, is it kept, do pictures agree with labels and maps."""

import pytest
import torch

from mtdiff_core import ScoredBatch, UserError
from mtdiff_mask.segmentation import Segmentation
from mtdiff_metrics import Agreement, FrechetDistance, TrainOnSynthetic, network
from mtdiff_metrics.data import classes_of, pictures_of
from mtdiff_metrics.judge import judge_of
from mtdiff_metrics.network import PictureNetwork, distorted
from tests.real_data import FIELDS, UNLABELLED, SmallData, figures, squares

STEPS = 60


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(network, "STEPS", STEPS)
    monkeypatch.setattr(network, "MAP_STEPS", STEPS)
    monkeypatch.setattr(network, "BATCH", 32)
    monkeypatch.setattr(network, "WIDTHS", (8, 16, 32))
    monkeypatch.setattr("mtdiff_metrics.judge.STEPS", 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache, so that equal judges are trained once."""
    return tmp_path_factory.mktemp("judges")


@pytest.fixture
def real(cache):
    return SmallData(cache)


@pytest.fixture
def labelled(cache):
    return SmallData(cache, names=("picture", "what"))


def values(count, seed=9):
    """Pictures, labels and maps as they belong together."""
    made = squares(count, seed)
    return {"image": made["picture"].float() / 255, "label": made["what"], "map": made["where"].long()}


def fail():
    raise AssertionError("trained again")


# The judge


def test_a_judge_learns_neither_classes_nor_maps_or_does_not_say_so(real):
    judge = judge_of(real, "image")
    assert judge.name.startswith("judge (classifier of what, right on ")
    assert "; segmenter of where, mean IoU " in judge.name
    made = values(64)
    assert (judge.labels(made["image"], "what") == made["label"]).float().mean() > 0.9
    labelled = made["map"] != UNLABELLED
    assert (judge.maps(made["image"], "where") == made["map"])[labelled].float().mean() > 0.9
    assert judge.features(made["image"]).shape == (64, network.FEATURES)


def test_the_judge_of_a_picture_is_trained_on_another(real):
    dark = judge_of(real, "night")
    assert dark is not judge_of(real, "image")
    made = squares(64, 9)
    assert (dark.labels(made["dark"].float() / 255, "what") == made["what"]).float().mean() > 0.8


def test_a_judge_is_trained_again(cache, labelled, monkeypatch):
    first = judge_of(labelled, "image")
    monkeypatch.setattr("mtdiff_metrics.judge.train", fail)
    again = judge_of(SmallData(cache, names=("picture", "what")), "image")
    pictures = values(5)["image"]
    assert again.name == first.name
    torch.testing.assert_close(again.features(pictures), first.features(pictures), rtol=0, atol=0)
    assert list((cache / "judge").glob("judge-*.safetensors"))


@pytest.mark.parametrize("change", ["more pictures", "labels that are missing"])
def test_a_judge_of_other_data_is_taken_from_the_cache(cache, labelled, monkeypatch, change):
    judge_of(labelled, "image")
    monkeypatch.setattr("mtdiff_metrics.judge.train", lambda *arguments: fail())
    counts = {"train": 151} if change == "more pictures" else {"train": 150}
    other = SmallData(cache, ("picture", "what"), counts, {} if change == "more pictures" else {"what": 7})
    with pytest.raises(AssertionError, match="trained again"):
        judge_of(other, "image")


def test_a_judge_depends_on_the_global_generator_or_moves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "STEPS", 3)
    seen = []
    for place in range(2):
        torch.manual_seed(place)
        real = SmallData(tmp_path / str(place), names=("picture", "what"))
        real.workshop.seed = place  # nor on a recipe's
        before = torch.get_rng_state()
        seen.append(judge_of(real, "image").features(values(4)["image"]))
        assert torch.get_rng_state().equal(before)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_data_without_classes_have_no_judge(tmp_path):
    real = SmallData(tmp_path, names=("picture",), counts={"train": 40, "test": 10})
    judge = judge_of(real, "image")
    assert judge.name == "judge (trained on image without labels)"
    features = judge.features(values(6)["image"])
    assert features.shape == (6, 64)
    assert features.std(dim=0).max() > 0
    assert judge.probabilities(values(6)["image"]) is None


def test_one_picture_has_a_judge(tmp_path):
    with pytest.raises(UserError, match="too few to train a judge on"):
        judge_of(SmallData(tmp_path, counts={"train": 1}), "image")


def test_a_judge_looks_twice_at_one_batch_or_once_at_two(labelled, monkeypatch):
    judge = judge_of(labelled, "image")
    seen = []
    see = judge._see
    monkeypatch.setattr(judge, "_see", lambda pictures: seen.append(len(pictures)) or see(pictures))
    made = values(8)["image"]
    judge.features(made), judge.probabilities(made), judge.labels(made, "what")
    judge.features(made[:5].clone())
    assert seen == [8, 5]


def test_missing_classes_are_taken_for_the_first(cache):
    real = SmallData(cache, lacking={"what": 4})
    rows = torch.arange(8)
    assert classes_of(real, "what", "train", rows)[::4].tolist() == [-1, -1]
    maps = classes_of(real, "where", "train", rows)
    assert maps[:, 0].eq(-1).all()
    assert maps[:, 1:].min() == 0
    assert len(pictures_of(real, "image", "train")) == 150


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (33, 47), (130, 99)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_some_size_have_no_network(size, channels):
    made = PictureNetwork(channels, size, [3], [4]).eval()
    features, (labels,), (maps,) = made(torch.rand(2, channels, *size))
    assert (features.shape, labels.shape, maps.shape) == ((2, 64), (2, 3), (2, 4, *size))


def test_a_map_is_distorted_otherwise_than_its_picture():
    torch.manual_seed(0)
    maps = squares(20, 0)["where"].long().clamp(max=1)
    maps[:, 0] = 0
    pictures, (moved,) = distorted(maps[:, None].float(), [maps])
    assert (moved != maps).any(dim=(1, 2)).float().mean() > 0.8
    assert (moved == (pictures[:, 0] > 0.5)).float().mean() > 0.97


def test_what_is_unlabelled_teaches_something():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = network._cross_entropy(logits, torch.tensor([-1, 0, -1, 1]), 0.0)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(logits[[1, 3]], torch.tensor([0, 1]))
    torch.testing.assert_close(loss, expected)
    assert network._cross_entropy(logits, torch.full((4,), -1), 0.0) == 0


def test_a_distance_by_the_judge_does_not_name_it(labelled):
    made = ScoredBatch(values=values(80))
    figure = figures(labelled.scorers(FrechetDistance(), "-> image + label"), made)["frechet_distance", "image"]
    assert figure.features == judge_of(labelled, "image").name


# Agreement


@pytest.mark.parametrize("direction", ["-> image + label + map", "label + map -> image"])
def test_pictures_do_not_agree_with_what_they_show_or_with_anything(real, direction):
    made = values(60)
    batches = [ScoredBatch(values={name: x[part] for name, x in made.items()}) for part in torch.arange(60).split(25)]
    found = figures(real.scorers(Agreement(), direction), *batches)
    assert set(found) == {("agreement", "image", "label"), ("agreement", "image", "map")}
    label, where = found.values()
    assert label.value > 0.9
    assert label.baselines["shuffled"] == pytest.approx(1 / 3, abs=0.1)
    assert where.value > 0.8
    assert where.baselines["shuffled"] < 0.6
    for figure in (label, where):
        assert figure.baselines["real test pictures"] == pytest.approx(figure.value, abs=0.1)
        assert figure.features.startswith("judge (")
        assert figure.n == 60


def test_pictures_agree_with_labels_of_others(real):
    made = values(60)
    made["label"] = (made["label"] + 1) % 3
    figure = figures(real.scorers(Agreement(), "label -> image"), ScoredBatch(values=made))
    assert figure["agreement", "image", "label"].value < 0.1


def test_given_pictures_are_judged(real):
    assert real.scorers(Agreement(), "image -> label + map + hidden") == []
    assert real.scorers(Agreement(), "vector -> image") == []


# Training on what was generated


@pytest.mark.parametrize("direction", ["-> image + label", "label -> image"])
def test_good_pairs_teach_nothing_or_bad_ones_do(real, direction):
    made = values(150)
    good, bad = (
        figures(
            real.scorers(TrainOnSynthetic(), direction),
            *(ScoredBatch(values={"image": made["image"][p], "label": label[p]}) for p in torch.arange(150).split(60)),
        )["train_on_synthetic", "image", "label"]
        for label in (made["label"], (made["label"] + 1) % 3)
    )
    assert good.value > 0.75
    assert bad.value < 0.2
    assert good.baselines == bad.baselines
    assert good.baselines["trained on 150 real samples"] > 0.75
    assert good.interval[0] < good.value <= good.interval[1]
    assert good.n == 150


def test_maps_teach_no_segmenter(real):
    made = values(150)
    figure = figures(real.scorers(TrainOnSynthetic(), "-> image + map"), ScoredBatch(values=made))
    found = figure["train_on_synthetic", "image", "map"]
    assert found.value > 0.8
    assert found.unit == "mean IoU"


def test_real_pairs_beside_few_generated_ones_are_of_one_class(cache):
    real = SmallData(cache, names=("picture", "what"))
    train = real._splits["train"]
    order = train["what"].argsort(stable=True)  # as folders by class lie
    real._splits["train"] = {name: x[order] for name, x in train.items()}
    made = values(40)
    pairs = ScoredBatch(values={"image": made["image"], "label": made["label"]})
    (figure,) = figures(real.scorers(TrainOnSynthetic(), "-> image + label"), pairs).values()
    assert figure.baselines["trained on 40 real samples"] > 0.6  # 0.36 of the test pictures are of one class


def test_an_ignored_class_is_taught(tmp_path, monkeypatch):
    real = SmallData(tmp_path, names=("picture", "where"))
    for fields in real._splits.values():
        fields["where"] %= UNLABELLED  # so that squares alone are ignored
    real.modalities["map"] = Segmentation(ignore=1).bind(FIELDS["where"])
    taught = []
    for place in ("mtdiff_metrics.judge.train", "mtdiff_metrics.scorers.synthetic.train"):
        monkeypatch.setattr(place, lambda network, pixels, labels, maps, *_: taught.extend(maps) or network.eval())
    figures(real.scorers(TrainOnSynthetic(), "-> image + map"), ScoredBatch(values=values(60)))
    # of generated maps, whose upper rows are no class, and of real ones
    assert [classes.unique().tolist() for classes in taught] == [[-1, 0], [-1, 0]]


def test_pictures_made_from_test_pictures_are_tested_on_them(real, tmp_path):
    for direction in ("hidden -> image + label", "vector -> image + label", "map -> image", "night -> image + label"):
        assert real.scorers(TrainOnSynthetic(), direction) == []
    assert SmallData(tmp_path, counts={"train": 50}).scorers(TrainOnSynthetic(), "-> image + label") == []


def test_a_few_pairs_are_learnt_from(real):
    with pytest.raises(UserError, match="too few to learn from"):
        figures(real.scorers(TrainOnSynthetic(), "-> image + label"), ScoredBatch(values=values(10)))
