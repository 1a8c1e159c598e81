"""What tests share: the registry, a recipe small enough to train in a second, and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from mtdiff_core.cli.main import exit_code
from mtdiff_core.registry.registry import Registry

CLONE = Path(__file__).parents[1]

# How long an example takes says nothing here: the first call of anything in torch is slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY = """
name = "tiny"
seed = 0

[data]
dataset = "digits"
size = 8
batch_size = 16

[space]
anchor = "image"

[modalities.image]
type = "image"

[modalities.label]
type = "label"
weight = 0.1

[backbone]
channels = 8
multipliers = [1, 2]
blocks = 1
attention = [4]
head_channels = 8

[train]
steps = 4
warmup_steps = 1
log_every = 1
grid_every = 0
checkpoint_every = 2

[sample]
steps = 2
num = 4
"""


MOST_WORKERS = 4  # each holds torch, a gigabyte or two with what it tests


def pytest_xdist_auto_num_workers(config):
    """The whole suite is shared out; a part of it, or what is chosen by a mark, runs in this process."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and not config.option.keyword
    return min(os.cpu_count() or 1, MOST_WORKERS) if whole and config.option.markexpr.startswith("not ") else 0


# Files that take minutes; what comes last should be short, or one worker ends long before the others.
LONG = ("distribution/", "training/test_parallel", "training/test_resume", "testing/", "registry/", "cli/")


def pytest_collection_modifyitems(items):
    """The long files first."""
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors: more threads only wait for each other, here and in the processes that tests start."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What tests derive is kept as long as they run, and shared by the processes that run them."""
    base = tmp_path_factory.getbasetemp()
    os.environ["MTDIFF_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture(scope="session")
def registry():
    return Registry()


@pytest.fixture
def tiny(tmp_path):
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def mtdiff(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mtdiff", *map(str, arguments)])
        code = exit_code()
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def mtdiff_process(tmp_path):
    """Run a command in a process of its own, as a user would; gives the finished process."""

    def call(*arguments, **options):
        command = [sys.executable, "-m", "mtdiff_core.cli.main", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, **options
        )

    return call
