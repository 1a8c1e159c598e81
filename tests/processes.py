"""Starts mtdiff on several processes, as a launcher does."""

import json
import os
import socket
import subprocess
import sys

PATIENCE = 240  # seconds until processes of ours count as hung


def environments(count):
    """What a launcher tells each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Processes:
    """``mtdiff`` commands that a launcher would start together."""

    def __init__(self, count, folder, *command, module=("-m", "mtdiff")):
        self.all = [
            subprocess.Popen(
                [sys.executable, *module, *command],
                cwd=folder, env=os.environ | environment,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for environment in environments(count)
        ]  # fmt: skip

    def finish(self, outputs=None):
        """Exit codes and what was said on stderr; into ``outputs`` what was put out as JSON, by rank."""
        try:
            both = [process.communicate(timeout=PATIENCE) for process in self.all]
            said = [errors for _, errors in both]
            if outputs is not None:
                outputs.update((rank, json.loads(output)) for rank, (output, _) in enumerate(both))
        finally:
            for process in self.all:
                process.kill()
        return [process.returncode for process in self.all], said


def run_together(count, folder, *command):
    codes, said = Processes(count, folder, *command).finish()
    assert codes == [0] * count, said
    return said
