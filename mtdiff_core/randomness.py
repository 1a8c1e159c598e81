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
    """Let torch's global generators follow a stream inside a block; afterwards they are as before.

    They are that of the CPU and that of the current GPU, where this process computes on one.
    """
    number, device = stream_seed(seed, *names), _accelerator_in_use()
    with torch.random.fork_rng([] if device is None else [device.index or 0]):
        torch.default_generator.manual_seed(number)
        # A GPU that is first used inside the block is seeded then
        (torch.cuda if device is None else torch.get_device_module(device)).manual_seed(number)
        yield


def _accelerator_in_use() -> torch.device | None:
    """Where this process computes besides the CPU; to ask others, which may be someone else's, would wake them up."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return None
    return torch.accelerator.current_accelerator(check_available=True)
