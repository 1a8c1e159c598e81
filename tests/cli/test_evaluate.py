"""mtdiff evaluate: a small run, judged by running the command."""

import json
import re
import shutil

import pytest
import tomli_w

from mtdiff_core.intervals import WHY_OUTSIDE

RECIPE = {
    "name": "small",
    "data": {"dataset": "scenes", "size": 16, "train": 96, "test": 80, "batch_size": 8},
    "space": {"anchor": "image", "aggregator": "blocks"},
    "modalities": {
        "image": {"type": "image"},
        "label": {"type": "label"},
        "segmentation": {"type": "segmentation"},
    },
    "backbone": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_channels": 8},
    "train": {"steps": 2, "grid_every": 0, "log_every": 1, "checkpoint_every": 1},
    "sample": {"steps": 2, "num": 2, "directions": ["joint", "image -> label + segmentation"]},
}
QUICK = ["--num", 70, "--bound-num", 4, "--bound-calls", 4, "--bound-steps", 20, "--fewer-steps", 1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run and the cache of its judge."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def run(mtdiff, finished, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(finished / "cache"))
    if not (finished / "run" / "samples" / "grid.png").exists():
        (finished / "small.toml").write_text(tomli_w.dumps(RECIPE))
        code, _, errors = mtdiff("run", finished / "small.toml", "--out", finished / "run")
        assert code == 0, errors
    return finished / "run"


def test_a_direction_or_a_figure_or_the_report_is_missing(run, mtdiff, tmp_path):
    code, output, errors = mtdiff("evaluate", run, *QUICK, "--out", tmp_path / "judged")
    assert code == 0, errors
    found = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    joint, read = found["directions"]
    assert (joint["direction"], read["direction"]) == (
        "joint -> image + label + segmentation",
        "image -> label + segmentation",
    )
    names = {one["direction"]: {figure["name"] for figure in one["figures"]} for one in found["directions"]}
    assert names[joint["direction"]] >= {"frechet_distance", "agreement", "nearest_training"}
    assert names[read["direction"]] >= {"accuracy", "mean_iou"}
    assert "calibration_error" not in names[read["direction"]], "z_t itself holds the label to the last"
    for figure in (figure for one in found["directions"] for figure in one["figures"]):
        assert figure["interval"][0] <= figure["interval"][1]
        assert figure["n"] > 0
        assert figure["name"] in output
    assert [one["steps"] for one in found["by_steps"]] == [1, 2]
    assert [one["direction"] for one in found["bound"]] == [one["direction"] for one in found["directions"]]
    groups = [tuple(group["of"]) for group in found["bound"][0]["groups"]]
    assert groups == [("image",), ("label",), ("segmentation",)]
    assert set(found["aggregation"]["signal_to_noise"]) == {"image", "label", "segmentation"}
    assert "<html" in (tmp_path / "judged" / "report.html").read_text()


def test_what_takes_long_is_not_shown(run, mtdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mtdiff_metrics.network.MAP_STEPS", 3)  # a judge that has to be trained
    options = ["--num", 70, "--bound-num", 4, "--bound-calls", 4, "--bound-steps", 20, "--fewer-steps", 1]
    code, _, errors = mtdiff("evaluate", run, *options, "--direction", "image", "--direction", "joint",
                             "--metric", "frechet_distance", "--out", tmp_path / "judged")  # fmt: skip
    assert code == 0, errors
    read, joint = "image -> label + segmentation", "joint -> image + label + segmentation"
    titles = errors.splitlines()
    expected = [f"{read}, 2 steps", f"{joint}, 2 steps", f"{read}, 1 steps", f"bound of {read}", f"bound of {joint}"]
    assert [title for title in titles if title in expected] == expected
    trained, seen = titles.index("training a judge of image"), titles.index("features of image in train")
    assert trained < seen


def test_the_same_seed_judges_otherwise(run, mtdiff, tmp_path):
    options = [
        "--metric",
        "accuracy",
        "--direction",
        "image",
        "--fewer-steps",
        "",
        "--bound-num",
        4,
        "--bound-calls",
        4,
    ]
    for name in ("first", "second"):
        code, output, errors = mtdiff("evaluate", run, *options, "--num", 8, "--out", tmp_path / name)
        assert code == 0, errors
    (row,) = [line.split() for line in output.splitlines() if line.split()[:1] == ["accuracy"]]
    assert row[:4] == ["accuracy", "of", "label", "higher"], "who reads it knows not which values are the better ones"
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("first", "second"))
    assert first["directions"][0]["figures"] == second["directions"][0]["figures"]
    assert first["bound"] == second["bound"]


def test_too_few_samples_for_a_covariance_give_a_number(run, mtdiff, tmp_path):
    few = ["--num", 8, "--no-bound", "--fewer-steps", "", "--direction", "joint"]
    code, output, errors = mtdiff("evaluate", run, *few, "--out", tmp_path / "few")
    assert code == 0, errors
    assert "frechet_distance" not in output
    assert "frechet_distance" in errors
    assert (
        "frechet_distance" in json.loads((tmp_path / "few" / "evaluation.json").read_text())["directions"][0]["refused"]
    )
    code, _, errors = mtdiff("evaluate", run, *few, "--metric", "frechet_distance", "--out", tmp_path / "asked")
    assert code == 2
    assert not (tmp_path / "asked").exists()


def test_a_value_outside_its_interval_is_not_explained_or_one_inside_is(run, mtdiff, tmp_path, monkeypatch):
    def told():
        few = ["--num", 8, "--no-bound", "--fewer-steps", "", "--direction", "image", "--metric", "accuracy"]
        code, output, errors = mtdiff("evaluate", run, *few, "--out", tmp_path / "judged")
        assert code == 0, errors
        return " ".join(output.split())

    inside = told()
    assert re.search(r"accuracy of label higher \S+ \S+ to \S+ 8", inside)
    assert WHY_OUTSIDE not in inside
    monkeypatch.setattr("mtdiff_metrics.scorers.labels.share_interval", lambda right: (2.0, 3.0))
    outside = told()
    assert re.search(r"accuracy of label higher \S+ 2 to 3 \* 8", outside)
    assert outside.count(f"* {WHY_OUTSIDE}") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "acuracy"], "did you mean 'accuracy'"),
        (["--metric", "retrieval"], "'retrieval' needs"),
        (["--metric", "accuracy", "--set", "accuracy.bins=3"], "accuracy.bins: unknown key"),
        (["--metric", "accuracy", "--set", "psnr.x=3"], "no metric that is computed"),
        (["--metric", "accuracy", "--set", "accuracy=3"], "is no setting"),
        (["--direction", "label -> picture"], "leaves a modality out"),
        (["--direction", "sound"], "no modality 'sound'"),
        (["--out", __file__], "is a file"),
        (["--out", f"{__file__}/judged"], "is a file"),
        (["--metric", "calibration_error"], "'calibration_error' has no figure of these samples"),
        (["--fewer-steps", "a,b"], "no numbers of steps"),
        (["--fewer-steps", "5,,15"], "no numbers of steps"),
        (["--fewer-steps", "0,5"], "no numbers of steps"),
    ],
)
def test_bad_input_is_taken_or_leaves_something_behind(run, mtdiff, tmp_path, options, message):
    code, _, errors = mtdiff("evaluate", run, "--num", 8, "--no-bound", "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in " ".join(errors.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("line", "ends"), [(b"7", 0), (b'{"loss/image": 1}', 0), (b'{"step": "\xff"}', 2)])
def test_a_log_that_is_not_whole_takes_the_figures_along(run, mtdiff, tmp_path, line, ends):
    shutil.copytree(run, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as log:
        log.write(line + b"\n")
    quick = ["--num", 8, "--no-bound", "--fewer-steps", "", "--direction", "joint", "--metric", "nearest_training"]
    code, output, errors = mtdiff("evaluate", tmp_path / "run", *quick)
    assert code == ends, errors
    assert "nearest_training of image" in output
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())["directions"][0]["figures"]
    assert [figure["name"] for figure in figures] == ["nearest_training"]


def test_a_run_without_a_checkpoint_is_judged(run, mtdiff, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.toml").write_text((run / "recipe.toml").read_text())
    code, _, errors = mtdiff("evaluate", tmp_path / "empty")
    assert code == 2
    assert "no checkpoint" in errors


def test_another_checkpoint_is_not_judged_or_takes_the_place_of_the_newest(run, mtdiff, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    quick = ["--num", 8, "--no-bound", "--fewer-steps", "", "--direction", "joint", "--metric", "nearest_training"]
    for older in ([], ["--checkpoint", steps[0]]):
        code, _, errors = mtdiff("evaluate", tmp_path / "run", *quick, *older)
        assert code == 0, errors
    files = tmp_path / "run" / "evaluation.json", tmp_path / "run" / f"evaluation-{steps[0]}" / "evaluation.json"
    assert [json.loads(file.read_text())["step"] for file in files] == [steps[-1], steps[0]]
    assert steps[0] < steps[-1]
