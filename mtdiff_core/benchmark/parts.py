"""Where a training step's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mtdiff_core.benchmark.timing import Measured

if TYPE_CHECKING:
    from mtdiff_core.benchmark.subjects import TrainingStep

# In the order of a step. On a device that works ahead, each is waited for.
PARTS = (
    "draws and levels",
    "encode and aggregate",
    "backbone",
    "heads",
    "losses",
    "backward",
    "clip and check",
    "optimizer",
    "moving average",
)


def parts_of_step(
    step: TrainingStep,
    rounds: int,
    synchronise: Callable[[], None],
    advance: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measured]:
    """Seconds of each of :data:`PARTS`, in so many steps; together they are all of it.

    Args:
        step: Of a trainer that is not compiled: compiled code runs none of the hooks that this hangs on.
        rounds: How many steps.
        synchronise: Waits for the device.
        advance: Called with 1 after each.
        clock: Seconds.
    """
    watch = _Watch(synchronise, clock)
    rows = []
    with _watched(step, watch):
        for _ in range(rounds):
            watch.start()
            step()
            watch.mark("moving average")
            rows.append(watch.seconds)
            advance(1)
    return {name: Measured(each=[row.get(name, 0.0) for row in rows]) for name in PARTS}


class _Watch:
    """Adds up the time between marks, each under the name of the mark that ends it."""

    def __init__(self, synchronise: Callable[[], None], clock: Callable[[], float]) -> None:
        self.synchronise, self.clock = synchronise, clock
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    def start(self) -> None:
        self.synchronise()
        self.seconds, self.last = {}, self.clock()

    def mark(self, name: str) -> None:
        self.synchronise()
        now = self.clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now

    def before_loss(self) -> None:
        """Of a batch that is computed in pieces, what lies between two of them is the first one's backward pass."""
        self.mark("backward" if "losses" in self.seconds else "draws and levels")

    def hook(self, name: str) -> Callable[..., None]:
        """A hook of torch's that marks."""
        return lambda *_: self.mark(name)


@contextmanager
def _watched(step: TrainingStep, watch: _Watch) -> Iterator[None]:
    """Mark the ends of all parts but the last while the block runs."""
    trainer = step.trainer
    with ExitStack() as stack:
        for handle in (
            trainer.model.backbone.register_forward_pre_hook(watch.hook("encode and aggregate")),
            trainer.model.backbone.register_forward_hook(watch.hook("backbone")),
            trainer.model.register_forward_hook(watch.hook("heads")),
            trainer.optimizer.register_step_pre_hook(watch.hook("clip and check")),
            trainer.optimizer.register_step_post_hook(watch.hook("optimizer")),
        ):
            stack.callback(handle.remove)
        stack.enter_context(_surrounded(trainer, "loss", before=watch.before_loss, after=watch.hook("losses")))
        stack.enter_context(_surrounded(trainer.model, "record", before=watch.hook("backward"), after=lambda: None))
        yield


@contextmanager
def _surrounded(thing: object, method: str, before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Let something happen before and after every call of one object's method."""
    original = getattr(thing, method)
    own = vars(thing).get(method)

    def surrounded(*args: Any, **kwargs: Any) -> Any:
        before()
        result = original(*args, **kwargs)
        after()
        return result

    setattr(thing, method, surrounded)
    try:
        yield
    finally:
        if own is None:
            delattr(thing, method)
        else:
            setattr(thing, method, own)
