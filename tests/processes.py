"""Starts commands in processes that have imported everything already: one alone, or several as a launcher does."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import chdir, nullcontext, suppress
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

from mtdiff_core.cli.main import main
from tests.conftest import CLONE

PATIENCE = 240  # seconds until processes of ours count as hung


def mtdiff(*arguments):
    """The command line; gives its exit code."""
    sys.argv = ["mtdiff", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code


class Started:
    """A command in a session of its own; as far as it goes, what :class:`subprocess.Popen` is.

    It ends without Python's own clearing up, and hashes strings as all others that are started so do.

    Args:
        arguments: Of the command.
        folder: The one to run in.
        environment: What it finds in its environment beside what is in ours.
        inside: What it runs in: a context manager that stands in a module.
        command: A function that stands in a module, and gives an exit code.
    """

    def __init__(self, *arguments, folder, environment=None, inside=nullcontext, command=mtdiff):
        said = Path(tempfile.mkdtemp(prefix="said-"))
        self._output, self._errors = said / "output", said / "errors"
        self._output.touch(), self._errors.touch()  # one killed at once has said nothing
        variables = dict(os.environ) | (environment or {})
        told = command, arguments, Path(folder).absolute(), variables, self._output, self._errors, inside
        self._process = warm().Process(target=_begin, args=told)
        self._process.start()
        weakref.finalize(self, _end, self._process, said)

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number, to_all=False):
        """Signal the process, or all of its session, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                (os.killpg if to_all else os.kill)(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=PATIENCE):
        """What was said on stdout and stderr, once it has ended."""
        self._process.join(timeout)
        output, errors = self._output.read_text(), self._errors.read_text()
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, output, errors)
        return output, errors


@functools.cache
def warm():
    """Where processes come from that have imported everything and computed nothing."""
    if sys.platform == "darwin":  # a process that goes on after a fork may end in a fault of Apple's libraries
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mtdiff_core.training.run", "mtdiff_tensorboard.events", "torch.distributed.fsdp", "tests.crashes"]
    )
    # It finds the tests by the folder it is started in; colours are settled when a console is made.
    with chdir(CLONE), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "dumb")
        forkserver.ensure_running()
    return context


def _begin(command, arguments, folder, environment, output, errors, inside):
    multiprocessing.set_start_method(None, force=True)  # its own processes start as a user's do
    np.random.seed()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    with inside():
        code = command(*arguments)
    sys.exit(code)


def _end(process, said):
    process.kill()
    process.join()
    shutil.rmtree(said, ignore_errors=True)


def environments(count):
    """What a launcher tells each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Processes:
    """Commands that a launcher would start together.

    Args:
        count: How many.
        folder: The one to run in.
        arguments: Of the command.
        environment: Beside ours and a launcher's.
        fresh: Whether each is an interpreter of its own, which takes its time: it hashes otherwise, so that sets have
            another order, and ends as a user's does.
        how: Of :class:`Started`, or if fresh, of :class:`subprocess.Popen`.
    """

    def __init__(self, count, folder, *arguments, environment=None, fresh=False, **how):
        ours = [one | (environment or {}) for one in environments(count)]
        if fresh:
            command = [sys.executable, "-m", "mtdiff", *map(str, arguments)]
            options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.all = [subprocess.Popen(command, env=os.environ | one, **options, **how) for one in ours]
        else:
            self.all = [Started(*arguments, folder=folder, environment=one, **how) for one in ours]

    def finish(self, outputs=None):
        """Exit codes and what was said on stderr; into ``outputs`` what was put out as JSON, by rank.

        One that hangs is killed, so that its code is that.
        """
        both, deadline = [], time.monotonic() + PATIENCE
        for process in self.all:
            try:
                both.append(process.communicate(timeout=max(1.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                both.append(process.communicate())
        if outputs is not None:
            outputs.update((rank, json.loads(output)) for rank, (output, _) in enumerate(both))
        return [process.returncode for process in self.all], [errors for _, errors in both]


def run_together(count, folder, *arguments, **how):
    codes, said = Processes(count, folder, *arguments, **how).finish()
    assert codes == [0] * count, said
    return said


def next_second():
    """TensorBoard's files carry the second they were begun in, and are read in that order."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.02)
