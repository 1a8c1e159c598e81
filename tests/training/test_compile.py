"""Compiled training and sampling: one graph each, and the same results. Compilers' own work is theirs to test."""

from functools import partialmethod

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile has captured so far: graphs, and breaks between them. Recompiling anything is an error."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield lambda: (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
    torch.compiler.reset()


def run(mtdiff, recipe, out, *settings):
    code, _, errors = mtdiff("run", recipe, "--out", out, *(a for one in settings for a in ("--set", one)))
    assert code == 0, errors


@pytest.mark.parametrize(
    "settings",
    [
        ["train.grid_every=1"],
        ["data.keep.label=0.5", "train.impute_from=2", "train.accumulate=2"],
        ["diffusion.conditioning=observe", "train.precision=bf16"],
        ["space.aggregator=blocks"],
    ],
    ids=lambda settings: settings[0],
)
def test_a_training_step_is_compiled_twice_or_in_pieces(mtdiff, tiny, tmp_path, graphs, settings):
    run(mtdiff, tiny, tmp_path / "run", "train.compile=true", *settings)
    assert graphs() == (1, 0)


def test_sampling_is_compiled_again_for_each_direction_or_batch(mtdiff, tiny, tmp_path, graphs):
    # Previews of 8, then batches of 6, 6 and 2, in three directions
    sizes = ("sample.num=14", "sample.batch_size=6", "train.grid_every=2")
    run(mtdiff, tiny, tmp_path / "run", "sample.compile=true", *sizes)
    assert graphs() == (1, 0)


def test_what_is_filled_in_while_training_compiles_the_sampling_network_again(mtdiff, tiny, tmp_path, graphs):
    run(mtdiff, tiny, tmp_path / "run", "sample.compile=true", "data.keep.label=0.5", "train.impute_from=1")
    assert graphs() == (1, 0)


def test_compiled_steps_are_other_steps(mtdiff, tiny, tmp_path, graphs):
    run(mtdiff, tiny, tmp_path / "plain")
    run(mtdiff, tiny, tmp_path / "compiled", "train.compile=true", "sample.compile=true")
    assert graphs() == (2, 0)
    for file in ("checkpoints/step-4/model.safetensors", "samples/samples.safetensors"):
        plain, compiled = (load_file(tmp_path / name / file) for name in ("plain", "compiled"))
        assert plain.keys() == compiled.keys()
        for name, tensor in plain.items():
            torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_run_cannot_be_compiled_later_on(mtdiff, tiny, tmp_path, graphs, command):
    run(mtdiff, tiny, tmp_path / "run")
    few = {"sample": ["--num", 4], "evaluate": ["--num", 2, "--bound-num", 2, "--bound-calls", 2, "--fewer-steps", 1]}
    assert mtdiff(command, tmp_path / "run", "--no-compile", *few[command])[0] == 0
    assert graphs()[0] == 0
    code, _, errors = mtdiff(command, tmp_path / "run", "--compile", *few[command])
    assert code == 0, errors
    assert graphs() == (1, 0)
