"""What an evaluation says of a model, as JSON data."""

import json
import math

import attrs
import pytest
import torch

from mtdiff_core import Figure, Metric, Scorer, component
from mtdiff_core.data.batches import spread_rows
from mtdiff_core.directions import direction
from mtdiff_core.errors import MissingSplitError, UserError
from mtdiff_core.evaluation.evaluation import Evaluation, EvaluationOptions, write_evaluation
from mtdiff_core.evaluation.likelihood import complete_batches
from mtdiff_core.evaluation.run_data import RunData
from mtdiff_core.generation import Settings
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.training.run import load_trained_model


class Seen(Scorer):
    """Notes what it is shown."""

    def __init__(self, log, known):
        self.log, self.known = log, known

    def update(self, batch):
        self.log.append((self.known, batch))

    def figures(self):
        return [Figure(name="seen", of=("label",), value=1.0, interval=(0.5, 1.0), n=3, better="higher")]


@component
class Watch(Metric):
    """Shows its scorers' batches to a test."""

    needs = "a label that is generated"

    log: list = attrs.field(factory=list)
    real: list = attrs.field(factory=list)

    def scorers(self, known, generated, modalities, real):
        self.real.append(real)
        return [Seen(self.log, known)] if "label" in generated else []


class Refuses(Seen):
    def figures(self):
        raise UserError("too few samples")


@component
class Picky(Watch):
    """Refuses."""

    def scorers(self, known, generated, modalities, real):
        return [Refuses(self.log, known)]


@pytest.fixture
def trained(mtdiff, tiny, tmp_path, registry):
    assert mtdiff("run", tiny, "--out", tmp_path / "run")[0] == 0
    return load_trained_model(tmp_path / "run", registry, torch.device("cpu"))


def evaluation(trained, metrics, **options):
    recipe = trained.experiment.recipe
    settings = attrs.evolve(Settings.of(recipe.sample, recipe.diffusion, 0), batch_size=4)
    chosen = {"directions": recipe.directions(), "num": 6, "settings": settings, "bound_steps": 0, **options}
    return Evaluation(trained, EvaluationOptions(metrics=metrics, **chosen), Workshop(torch.device("cpu"), 0))


def test_a_scorer_sees_other_samples_than_those_of_its_direction(trained):
    watch = Watch()
    found = evaluation(trained, {"watch": watch}).run()
    assert [known for known, _ in watch.log] == [(), (), ("image",), ("image",)]  # label -> image has no label to judge
    joint, read = watch.log[0][1], watch.log[2][1]
    assert not joint.truth
    assert set(read.truth) == {"label"}
    assert read.present["label"].all()
    test = trained.experiment.recipe.dataset.open("test")
    rows = spread_rows(test, ["image"], 6)[:4]
    expected = torch.stack([test[i]["image"] for i in rows]).float() / 255
    torch.testing.assert_close(read.values["image"], expected)
    torch.testing.assert_close(read.truth["label"], torch.stack([test[i]["label"] for i in rows]))
    assert read.distributions["label"].probs.shape == (4, 10)
    assert [one["n"] for one in found["directions"]] == [6, 6, 6]
    assert [len(one["figures"]) for one in found["directions"]] == [1, 1, 0]


class ClassByClass:
    """The samples of a split, sorted as folders of classes are."""

    def __init__(self, samples):
        self.samples, self.fields = samples, samples.fields
        self.order = sorted(range(len(samples)), key=lambda index: int(samples[index]["label"]))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[self.order[index]]


def test_some_of_a_split_that_lies_class_by_class_are_of_few_classes(trained, monkeypatch):
    as_it_lies = RunData.open

    def class_by_class(data, split):
        samples, sources = as_it_lies(data, split)
        return ClassByClass(samples), sources

    monkeypatch.setattr(RunData, "open", class_by_class)
    read, watch = direction(["image"], trained.experiment.recipe.modalities), Watch()
    evaluation(trained, {"watch": watch}, num=40, directions=[read]).run()
    judged = torch.cat([batch.truth["label"] for _, batch in watch.log])
    assert len(judged) == 40
    assert len(judged.unique()) > 7
    data = RunData(trained.experiment, Workshop(torch.device("cpu"), 0))
    bounded = torch.cat([batch.values["label"] for batch in complete_batches(data, 40, 16)])
    assert len(bounded) == 40
    assert len(bounded.unique()) > 7


@pytest.mark.parametrize(
    ("settings", "says"),
    [(["observe=[]"], True), (['observe=["label"]'], False), (["observe_share=0"], False)],
    ids=["told", "never told the image", "never told anything"],
)
def test_what_a_network_was_never_told_it_is_asked_for(mtdiff, tiny, tmp_path, registry, settings, says):
    chosen = [f"--set=diffusion.{one}" for one in ("conditioning=observe", *settings)]
    code, _, errors = mtdiff("run", tiny, "--out", tmp_path / "run", *chosen)
    assert code == 0, errors
    trained, watch = load_trained_model(tmp_path / "run", registry, torch.device("cpu")), Watch()
    read = direction(["image"], trained.experiment.recipe.modalities)
    evaluation(trained, {"watch": watch}, directions=[read]).run()
    assert bool(watch.log[0][1].distributions) == says


def test_a_metric_that_was_asked_for_and_gives_no_figure_is_passed_over(trained, monkeypatch):
    monkeypatch.setattr(Seen, "figures", lambda scorer: [])
    evaluation(trained, {"watch": Watch()}).run()
    with pytest.raises(UserError, match=r"'watch' has no figure of these samples\n.*a label that is generated"):
        evaluation(trained, {"watch": Watch()}, asked=["watch"]).run()


def test_real_data_is_not_in_the_order_of_the_data_set_or_in_other_units(trained):
    watch = Watch()
    evaluation(trained, {"watch": watch}, directions=trained.experiment.recipe.directions()[:1]).run()
    real = watch.real[0]
    first = next(iter(real.batches("train")))
    train = trained.experiment.recipe.dataset.open("train")
    torch.testing.assert_close(first.truth["image"][0], train[0]["image"].float() / 255)
    assert sum(len(batch.values["label"]) for batch in real.batches("test")) == len(real.samples("test"))
    assert real.field("label") == "label"
    made = []
    assert [real.once("key", lambda: made.append(1) or 5) for _ in range(2)] == [5, 5]
    assert made == [1]


def test_a_metric_that_refuses_ends_the_others_or_is_forgotten(trained):
    metrics = {"watch": Watch(), "picky": Picky()}
    found = evaluation(trained, metrics).run()
    assert found["directions"][0]["refused"] == {"picky": "too few samples"}
    assert len(found["directions"][0]["figures"]) == 1
    with pytest.raises(UserError, match="too few"):
        evaluation(trained, metrics, asked=["picky"]).run()


class Stumbles(Seen):
    def update(self, batch):
        super().update(batch)
        raise KeyError("label")


@component
class Clumsy(Watch):
    """Fails at each batch that it is shown."""

    def scorers(self, known, generated, modalities, real):
        return [Stumbles(self.log, known)]


def test_a_metric_that_fails_ends_the_others_or_is_shown_more(trained):
    clumsy, watch = Clumsy(), Watch()
    found = evaluation(trained, {"clumsy": clumsy, "watch": watch}, fewer_steps=[1]).run()
    said = f"class {__name__}.Clumsy failed in update: KeyError: 'label'"
    assert [one["refused"] for one in found["directions"]] == [{"clumsy": said}] * 3
    assert [one["refused"] for one in found["by_steps"]] == [{"clumsy": said}] * 2
    assert [len(one["figures"]) for one in found["directions"]] == [1, 1, 0]
    assert [known for known, _ in clumsy.log] == [(), ("image",), ("label",), ()], "one batch of each direction"
    with pytest.raises(KeyError, match="label") as caught:
        evaluation(trained, {"clumsy": Clumsy()}, asked=["clumsy"]).run()
    assert caught.value.__notes__ == [f"in update of metric 'clumsy' of class {__name__}.Clumsy"]


def test_a_metric_that_was_asked_for_and_has_nothing_to_say_is_passed_over(trained):
    label_given = [one for one in trained.experiment.recipe.directions() if one.known == ("label",)]
    with pytest.raises(UserError, match="'watch' needs a label that is generated"):
        evaluation(trained, {"watch": Watch()}, asked=["watch"], directions=label_given).run()


def test_data_without_a_test_split_cannot_be_judged_or_is_called_a_test(trained, monkeypatch):
    dataset = type(trained.experiment.recipe.dataset)
    opened = dataset.open

    def only_train(self, split):
        if split == "test":
            raise MissingSplitError("there is no test split")
        return opened(self, split)

    monkeypatch.setattr(dataset, "open", only_train)
    watch = Watch()
    found = evaluation(trained, {"watch": watch}, num=2, bound_steps=10, bound_num=2).run()
    assert found["split"] == "train"
    train = trained.experiment.recipe.dataset.open("train")
    first = train[spread_rows(train, ["image"], 2)[0]]
    torch.testing.assert_close(watch.log[1][1].values["image"][0], first["image"].float() / 255)
    assert [one["n"] for one in found["bound"]] == [2, 2, 2]


def test_that_no_sample_is_complete_is_found_after_sampling(trained, monkeypatch):
    as_it_is = RunData.open

    class Unlabelled(ClassByClass):
        def __getitem__(self, index):
            return {"image": super().__getitem__(index)["image"]}

    def without_labels(data, split):
        samples, sources = as_it_is(data, split)
        return Unlabelled(samples), sources

    monkeypatch.setattr(RunData, "open", without_labels)
    watch = Watch()
    with pytest.raises(UserError, match="two samples with all modalities, and the test split has 0"):
        evaluation(trained, {"watch": watch}, bound_steps=10).run()
    assert not watch.log


def test_the_bound_is_not_the_sum_of_its_parts(trained):
    found = evaluation(trained, {}, num=2, bound_steps=100, bound_calls=6, bound_num=5).run()["bound"]
    for one in found:
        parts = sum(group["nats"]["value"] for group in one["groups"])
        assert one["nats"]["value"] == pytest.approx(parts)
        for group in one["groups"]:
            terms = group["prior"]["value"] + group["diffusion"]["value"] + sum(group["reconstruction"].values())
            assert group["nats"]["value"] == pytest.approx(terms)
            assert sum(group["by_log_snr"]) == pytest.approx(group["diffusion"]["value"])
        assert (one["n"], one["computed"], len(one["log_snr"])) == (5, 6, 3)
        assert one["error_of_steps"] > 0
    joint, label_read, image_drawn = found
    assert joint["bits_per_dimension"]["value"] == pytest.approx(joint["nats"]["value"] / 65 / math.log(2))
    assert label_read["bits_per_dimension"]["value"] == pytest.approx(label_read["nats"]["value"] / math.log(2))
    assert image_drawn["groups"][0]["of"] == ["image"]


def test_a_direction_that_is_asked_for_twice_is_counted_twice(trained):
    watch, joint = Watch(), trained.experiment.recipe.directions()[0]
    found = evaluation(trained, {"watch": watch}, directions=[joint, joint]).run()
    assert [one["n"] for one in found["directions"]] == [6]
    assert sum(len(batch.values["image"]) for _, batch in watch.log) == 6


def test_the_bound_asks_for_more_at_once_than_the_recipe_samples(trained, monkeypatch):
    rows, model = [], trained.experiment.model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda z, *rest: rows.append(len(z)) or forward(z, *rest))
    found = evaluation(trained, {}, num=2, bound_steps=20, bound_calls=4, bound_num=10).run()
    assert [one["n"] for one in found["bound"]] == [10, 10, 10]
    assert max(rows) == 4  # the batch size


def test_what_is_not_finite_is_no_json(tmp_path):
    write_evaluation(tmp_path / "evaluation.json", {"a": [math.inf, (math.nan, 1.0)], "b": {"c": 2}})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"a": [None, [None, 1.0]], "b": {"c": 2}}
