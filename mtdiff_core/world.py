"""The processes that work on one run together, and what they tell each other.

A launcher such as ``torchrun`` starts them and says to each, in its environment, which one it is. Without a launcher
there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from mtdiff_core.errors import UserError

T = TypeVar("T")

# How long processes wait for each other: the main one may have to learn from the data, or to draw pictures.
PATIENCE = timedelta(hours=6)
MEETING = timedelta(minutes=10)  # how long they wait for each other to start


@attrs.frozen
class World:
    """One process among those of a run.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def own_stream(self) -> tuple[str, ...]:
        """What sets this process's random streams apart, where each is to have its own."""
        return () if self.is_main else (f"process {self.rank}",)

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"

    def rows(self, count: int) -> slice:
        """This process's share of ``count`` rows, which the number of processes divides."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether some process says yes; through the host, so that no device is waited for."""
        return bool(self.add(torch.tensor(int(flag)))) if self.size > 1 else flag

    def join(self, tensor: Tensor) -> Tensor:
        """All processes' rows ``(B, ...)`` of equal number, in the order of their ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Each process's items, in the order of their ranks."""
        if self.size == 1:
            return [items]
        found: list[Sequence[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, items)
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, at all of them; if it raises instead, it does so before the others wait."""
        if self.size == 1:
            return make()
        made = [make() if self.is_main else None]
        dist.broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]

    def same_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite tensors of the same names and shapes, in place, with those of the main process."""
        if self.size > 1:
            for name in sorted(tensors):
                dist.broadcast(tensors[name], 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def second_line(self) -> dist.ProcessGroup:
        """For what processes do together in the background; all have to ask, and there are at least two."""
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)  # of all
        return group

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others, which find what it has put into a cache."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


ALONE = World()


class LostProcessError(UserError):
    """Another process of the run has ended."""


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Inside the block, this process and the others that a launcher started can tell each other things.

    Args:
        device: Where this process computes.

    Raises:
        UserError: The launcher's environment is not whole, or the others do not start.
        LostProcessError: Another one ended while this one waited for it.
    """
    world = World(rank=_number("RANK", 0), size=_number("WORLD_SIZE", 1))
    if world.size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, _, _ = next(rendezvous("env://", timeout=MEETING))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{world} does not find the others ({str(error).splitlines()[0]})",
            "environment",
            f"let torchrun start them; to run one process alone, unset WORLD_SIZE, which is {world.size}",
        ) from error
    store.set_timeout(PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    try:
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise LostProcessError(
            f"{world}: another process of this run has ended",
            hint="its own message says why; go on from the last checkpoint with --resume, on any number of processes",
        ) from error
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process among those on its machine."""
    return _number("LOCAL_RANK", 0)


def _number(variable: str, default: int) -> int:
    """A number from the launcher's environment."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(
            f"{text!r} is no number", f"environment variable {variable}", "let torchrun set it, or unset it"
        )
    return int(text)
