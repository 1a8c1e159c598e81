"""mtdiff bench: by running the command on a recipe that is timed in seconds."""

import json

import pytest

from mtdiff_core.benchmark import benchmark as benchmark_module
from mtdiff_core.benchmark.parts import PARTS
from mtdiff_core.benchmark.subjects import TrainingStep
from mtdiff_core.benchmark.variants import variants_json


@pytest.fixture
def bench(mtdiff, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: mtdiff("bench", tiny, *arguments)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_figure_is_missing_or_something_is_left_behind(bench, tmp_path):
    code, said, errors = bench("--fast", "--rounds", 2, "--out", tmp_path / "speed.json")
    assert code == 0, errors
    assert files(tmp_path) == ["speed.json", "tiny.toml"]
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["settings"] == {
        "rounds": 2,
        "batch_size": 16,
        "space": [1, 8, 8],
        "parameters": found["settings"]["parameters"],
        "backbone_parameters": found["settings"]["backbone_parameters"],
        "precision": "fp32",
        "sampling_steps": 10,
    }
    assert 0 < found["settings"]["backbone_parameters"] < found["settings"]["parameters"]
    assert found["recipe"]["train"]["steps"] == 4
    assert "torch" in found["environment"]["versions"]
    seconds = {name: one["each"] for name, one in found["seconds"].items()}
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())
    for ratio, mine, its in (
        ("training", "training step", "bare training step"),
        ("sampling", "sampling step", "bare forward"),
        ("loading", "loading a batch", "training step"),
    ):
        expected = [one / other for one, other in zip(seconds[mine], seconds[its], strict=True)]
        assert found["ratios"][ratio]["each"] == pytest.approx(expected)
    speed = found["images_per_second"]
    assert speed["training"]["each"] == pytest.approx([16 / one for one in seconds["training step"]])
    assert speed["sampling"]["each"] == pytest.approx([16 / 2 / one for one in seconds["sampling step"]])  # 2 steps
    assert tuple(found["parts"]) == PARTS
    for number in range(2):
        assert sum(part["share"]["each"][number] for part in found["parts"].values()) == pytest.approx(1)
    work, peaks = found["share_of_peak"]["bare training step"], found["peaks"]
    assert list(work) == ["matmul float32", "convolution float32"]
    for name, share in work.items():
        rate = found["flops"]["bare training step"] / seconds["bare training step"][0]
        assert share["each"][0] == pytest.approx(rate / peaks[name]["each"][0])
    assert [row["name"] for row in found["variants"]] == ["fp32", "fp32, not channels_last", "bf16"]
    assert all(row["error"] == "" for row in found["variants"])
    for text in (*PARTS, "training step", "bare forward", "matmul bfloat16", "not channels_last", "1x8x8"):
        assert text in said


def test_a_recipe_in_bf16_is_measured_by_the_peaks_of_fp32(bench, tmp_path):
    code, _, errors = bench("--fast", "--rounds", 1, "--set", "train.precision=bf16", "--out", "speed.json")
    assert code == 0, errors
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["settings"]["precision"] == "bf16"
    assert list(found["share_of_peak"]["bare training step"]) == ["matmul bfloat16", "convolution bfloat16"]
    assert list(found["share_of_peak"]["bare forward"]) == ["matmul float32", "convolution float32"]


def test_what_the_others_are_measured_by_does_not_work_and_nothing_is_shown(bench, monkeypatch):
    ordinary = TrainingStep.__call__

    def refuse_the_first(self):
        if self.trainer.options.precision == "fp32" and stage == ["variants"]:
            raise RuntimeError("no fp32 here")
        ordinary(self)

    stage = []
    monkeypatch.setattr(TrainingStep, "__call__", refuse_the_first)
    monkeypatch.setattr(
        benchmark_module, "variants_json", lambda *given: (stage.append("variants"), variants_json(*given))[1]
    )
    code, said, errors = bench("--fast", "--rounds", 1)
    assert code == 0, errors
    assert "fp32 does not work here: RuntimeError: no fp32 here" in errors
    (row,) = [line.split() for line in said.splitlines() if line.split()[:1] == ["bf16"]]
    assert "training step" in said
    assert "timed once" in said
    assert len(row) == 4  # name, time, and the first step's in seconds: no ratio to what was not measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--set", "train.stpes=3"], "did you mean 'steps'"),
        (["--set", "data.size=7"], "backbone.multipliers"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--out", "missing/speed.json"], "there is no folder missing"),
        (["--out", "."], "is a folder"),
    ],
)
def test_bad_input_is_taken_or_something_is_written(bench, tmp_path, arguments, message):
    code, said, errors = bench(*arguments)
    assert code == 2
    assert message in " ".join(errors.split())
    assert said == ""
    assert files(tmp_path) == ["tiny.toml"]


def test_an_unknown_recipe_is_not_answered_with_the_right_spelling(mtdiff):
    code, _, errors = mtdiff("bench", "image+lable")
    assert code == 2
    assert "did you mean 'image+label'" in errors
