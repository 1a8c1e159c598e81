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

# How long processes wait for each other to start, unless the environment allows them less for a step.
MEETING = timedelta(minutes=10)
# How long they wait for what takes one of them as long as it takes: to learn from the data, or to judge samples.
PATIENCE = timedelta(hours=6)
# How long, in seconds, one may keep the others waiting for what all of them compute, unless the environment says more.
STEP_PATIENCE = 1800


@attrs.frozen
class World:
    """One process among those of a run.

    What all of them compute (tensors) is waited for a while, what one of them does alone for hours.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        patient: Through which they wait for hours; by default, as they wait for tensors.
    """

    rank: int = 0
    size: int = 1
    patient: dist.ProcessGroup | None = attrs.field(default=None, eq=False, repr=False)

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

    def add_all(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums of all processes' tensors of the same names, shapes and types, in one message for each type."""
        if self.size == 1:
            return dict(tensors)
        sums = dict(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
            alike = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
            joint = self.add(torch.cat([tensor.reshape(-1) for tensor in alike.values()]))
            parts = torch.split(joint, [tensor.numel() for tensor in alike.values()])
            sums.update((name, part.view(alike[name].shape)) for name, part in zip(alike, parts, strict=True))
        return sums

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

    def gather(self, items: Sequence[T], in_a_step: bool = False) -> list[Sequence[T]]:
        """Each process's items, in the order of their ranks.

        Args:
            items: Those of this process.
            in_a_step: All come to this at the same time, and are waited for no longer than in a step.
        """
        if self.size == 1:
            return [items]
        found: list[Sequence[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, items, group=None if in_a_step else self.patient)
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, at all of them; if it raises instead, it does so before the others wait."""
        if self.size == 1:
            return make()
        made = [make() if self.is_main else None]
        dist.broadcast_object_list(made, group=self.patient)
        return made[0]  # type: ignore[return-value]

    def same_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite tensors of the same names and shapes, in place, with those of the main process."""
        if self.size > 1:
            for name in sorted(tensors):
                dist.broadcast(tensors[name], 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.patient)

    def second_line(self) -> dist.ProcessGroup:
        """For what processes do together in the background; all have to ask, and there are at least two."""
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)  # of all
        return group

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others, which find what it has put into a cache.

        They leave it together: one whose cache the main process does not fill may take as long as that one did.
        """
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()
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
        LostProcessError: Another one ended, or did not answer, while this one waited for it.
    """
    world = World(rank=_number("RANK", 0), size=_number("WORLD_SIZE", 1))
    if world.size == 1:
        yield ALONE
        return
    patience = timedelta(seconds=_number("MTDIFF_PATIENCE", STEP_PATIENCE, 1, "set it to seconds, or unset it"))
    try:
        store, _, _ = next(rendezvous("env://", timeout=min(MEETING, patience)))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{world} does not find the others ({str(error).splitlines()[0]})",
            "environment",
            f"let torchrun start them; to run one process alone, unset WORLD_SIZE, which is {world.size}",
        ) from error
    store.set_timeout(patience)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=patience)
        patient = dist.new_group(timeout=PATIENCE, backend="gloo")
        yield attrs.evolve(world, patient=patient)  # type: ignore[arg-type]  # a number stands for no member
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise _lost(world, "imed out" in str(error), patience) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost(world: World, silent: bool, patience: timedelta) -> LostProcessError:
    """Another process ended; or it says nothing: it hangs, or its machine went away without a word."""
    go_on = "go on from the last checkpoint with --resume, on any number of processes"
    if not silent:
        what = f"{world}: another process of this run has ended"
        return LostProcessError(what, hint=f"its own message says why; {go_on}")
    longer = f"if a step may take more than {patience.total_seconds():.0f} seconds, set MTDIFF_PATIENCE"
    what = f"{world}: another process of this run does not answer"
    return LostProcessError(what, hint=f"it hangs, or its machine is gone; {go_on}; {longer}")


def local_rank() -> int:
    """Number of this process among those on its machine."""
    return _number("LOCAL_RANK", 0)


def _number(variable: str, default: int, least: int = 0, hint: str = "let torchrun set it, or unset it") -> int:
    """A number from the environment; the hint says what to do about one that is none."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{text!r} is no whole number from {least} up", f"environment variable {variable}", hint)
    return int(text)
