"""One seed, many streams: every random number comes from a stream named after what it is for.

A stream is a function of the seed and its names alone (``stream_seed(0, "noise", step)``), so nothing has to be
saved to go on where a run stopped, and two recipes with one seed share every draw whose shape they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """The 63-bit seed of a stream."""
    key = "/".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of a stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int) -> Iterator[None]:
    """Let torch's global generators follow a stream inside a block; afterwards they are as before."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, *names))
        yield
