"""Starts commands in processes that have imported everything already: one alone, or several as a launcher does."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from contextlib import nullcontext
from pathlib import Path

from mtdiff_core.cli.main import main

PATIENCE = 240  # seconds until processes of ours count as hung


def mtdiff(*arguments):
    """The command line; gives its exit code."""
    sys.argv = ["mtdiff", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code


class Started:
    """A command in a process group of its own; as far as it goes, what :class:`subprocess.Popen` is.

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
        self._process = forkserver().Process(
            target=_begin, args=(command, arguments, folder, variables, self._output, self._errors, inside)
        )
        self._process.start()
        weakref.finalize(self, _end, self._process, said)

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=PATIENCE):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, stderr=self._errors.read_bytes())
        return self._output.read_text(), self._errors.read_text()


def forkserver():
    """Starts processes that have imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mtdiff_core.training.run", "mtdiff_tensorboard.events", "torch.distributed.fsdp", __name__]
    )
    return context


def _begin(command, arguments, folder, environment, output, errors, inside):
    multiprocessing.set_start_method(None, force=True)  # its own processes start as a user's do
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
        how: Of :class:`Started`.
        environment: Beside ours and a launcher's.
    """

    def __init__(self, count, folder, *arguments, environment=None, **how):
        self.all = [
            Started(*arguments, folder=folder, environment=one | (environment or {}), **how)
            for one in environments(count)
        ]

    def finish(self, outputs=None):
        """Exit codes and what was said on stderr; into ``outputs`` what was put out as JSON, by rank."""
        try:
            both = [process.communicate() for process in self.all]
        finally:
            for process in self.all:
                process.kill()
        if outputs is not None:
            outputs.update((rank, json.loads(output)) for rank, (output, _) in enumerate(both))
        return [process.returncode for process in self.all], [errors for _, errors in both]


def run_together(count, folder, *arguments):
    codes, said = Processes(count, folder, *arguments).finish()
    assert codes == [0] * count, said
    return said
