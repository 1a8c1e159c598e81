"""What a user gets: the wheel, in an environment of its own, with no clone in sight.

The environment is fresh but for what is heavy and not ours: it sees the packages of the one that runs the tests, by a
.pth file, whose own .pth files, such as that of an editable installation, are not followed.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import CLONE

# Enough to train, sample and be judged in seconds.
SMALL = {
    "train.steps": 20,
    "train.grid_every": 0,
    "data.batch_size": 8,
    "sample.steps": 2,
    "sample.num": 4,
}


class Environment:
    """A virtual environment.

    Args:
        folder: Where it is made.
    """

    def __init__(self, folder):
        self.folder = folder
        self.work = folder / "work"
        venv.create(folder / "env", symlinks=True)
        self.python = folder / "env" / "bin" / "python"
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        self.work.mkdir()
        self.variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MTDIFF"))
        }
        self.variables |= {"MTDIFF_CACHE": str(folder / "cache"), "COLUMNS": "200"}

    def install(self, *wheels):
        """Install wheels, and nothing that they depend on."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "install"]
        succeed([*pip, "--quiet", "--no-deps", "--no-index", "--ignore-installed", *map(str, wheels)])

    def see_packages(self):
        """Let it see the packages of the environment that runs the tests, after its own."""
        packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (self.site / "packages-of-the-tests.pth").write_text("\n".join(packages))

    def run(self, *command):
        """Run a command of the environment in a folder that is no clone; gives what it said on stdout."""
        program, *arguments = map(str, command)
        return succeed([str(self.python.parent / program), *arguments], cwd=self.work, env=self.variables)

    def mtdiff(self, *arguments, small=False):
        """Run ``mtdiff``, with the settings of a small run if asked to."""
        settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")] if small else []
        return self.run("mtdiff", *arguments, *settings)


def succeed(command, **options):
    """Run a command that has to end well; gives its stdout."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def built(source, folder, *options):
    """Build a package without a network; gives its wheel."""
    succeed([sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(source)])
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def build_package(tmp_path_factory):
    """Build the wheel of a package, of a copy of it."""

    def build(source):
        folder = tmp_path_factory.mktemp("package")
        shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
        return built(folder / "source", folder / "dist", "--wheel")

    return build


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The folder with our own sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("release")
    built(CLONE, folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory, release):
    """An environment with our wheel alone; what one file of tests installs is not there in the next."""
    made = Environment(tmp_path_factory.mktemp("fresh"))
    made.install(*release.glob("*.whl"))
    made.see_packages()
    return made
