"""Memory that a training step frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

from mtdiff_core.allocation import USERS_OWN
from mtdiff_core.cli import console

# Pages that 96 MB cost, in blocks like a network's activations, when as much has just been freed.
PAGES = """
import platform, resource
from mtdiff_core.allocation import keep_freed_memory

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(1 << 20) for _ in range(96)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = False
{first}
step(), step()
print(kept, step())
"""
KEEP = "kept = keep_freed_memory()"


@pytest.fixture
def pages(monkeypatch):
    def count(first, **variables):
        for name in USERS_OWN:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-c", PAGES.replace("{first}", first)]
        kept, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return kept == "True", int(faults)

    return count


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")
def test_freed_memory_goes_back_to_the_system(pages):
    kept, faults = pages(KEEP)
    _, faults_before = pages("")
    assert kept
    assert faults < 0.01 * faults_before


def test_what_the_user_says_of_memory_is_overruled(pages):
    kept, faults = pages(KEEP, MALLOC_TRIM_THRESHOLD_="0")
    assert not kept
    assert faults > 10_000


def test_another_c_library_is_called_as_if_it_were_glibc(pages):
    kept, _ = pages(f"platform.libc_ver = lambda: ('musl', '1.2'); {KEEP}")
    assert not kept


def test_a_command_that_computes_does_not_ask_for_it(mtdiff, tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(console, "keep_freed_memory", lambda: asked.append(True))
    for command in (("run", tiny, "--out", "run"), ("sample", "run"), ("bench", tiny, "--fast", "--rounds", 1)):
        asked.clear()
        code, _, errors = mtdiff(*command)
        assert code == 0, errors
        assert asked == [True]
