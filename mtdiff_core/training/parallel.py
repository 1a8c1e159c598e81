"""Training on several processes: every one has the whole network (DDP), or each has a part of it (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from mtdiff_core.errors import UserError
from mtdiff_core.randomness import global_stream

if TYPE_CHECKING:
    from mtdiff_core.diffusion.forward import NoiseLevel
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.diffusion.objective import MultiModalELBO
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.world import World


class TrainingLoss(nn.Module):
    """The objective as a module's forward pass, which is what torch's wrappers take part in.

    Args:
        objective: What is computed.
    """

    def __init__(self, objective: MultiModalELBO) -> None:
        super().__init__()
        self.model, self.objective = objective.model, objective

    def forward(
        self,
        values: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        level: NoiseLevel,
        noise: Tensor,
        counts: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`MultiModalELBO.training_loss`: total and terms, a tuple, in which wrappers find tensors."""
        loss = self.objective.training_loss(values, present, known, level, noise, counts)
        return loss.total, dict(loss.terms)


def check_parallel(recipe: Recipe, world: World) -> None:
    """Whether so many processes can share a recipe's batches.

    Raises:
        UserError: The batch cannot be shared out evenly; or the processes would wait for each other for ever.
    """
    if world.size == 1:
        return
    parts = world.size * recipe.train.accumulate
    if recipe.data.batch_size % parts:
        raise UserError(
            f"{world.size} processes, with train.accumulate = {recipe.train.accumulate}, do not divide it",
            f"data.batch_size = {recipe.data.batch_size}",
            f"a multiple of {parts}, which all processes together compute in one step",
        )
    if recipe.train.parallel == "fsdp2":
        _check_sharded(recipe)


def _check_sharded(recipe: Recipe) -> None:
    """Whether a recipe can be trained by processes of which each has a part of each parameter."""
    in_pieces = "a network whose parts are gathered block by block is compiled in pieces, and again for each block"
    hindrances = [
        (
            recipe.train.impute_from,
            "each process would fill in what its own samples lack, and wait for the others with the network's parts",
            'use "ddp" with train.impute_from',
        ),
        (
            recipe.sample.guidance and recipe.sample.guide == "decoder",
            "guidance by the decoders needs gradients of the averaged network, of which each process has but a part",
            'use "ddp", or sample.guidance = 0 here and --guidance of mtdiff sample later',
        ),
        (recipe.train.compile, in_pieces, 'use "ddp" with train.compile'),
        (
            recipe.sample.compile,
            in_pieces,
            'use "ddp", or sample.compile = false here and --compile of mtdiff sample later',
        ),
    ]
    for hinders, what, instead in hindrances:
        if hinders:
            raise UserError(what, "train.parallel", instead)


def check_shardable(model: MultiModalDiffusion, recipe: Recipe, world: World) -> None:
    """Raise ``UserError`` if the processes are to have a part of each parameter, and one has no parts."""
    if world.size == 1 or recipe.train.parallel != "fsdp2":
        return
    for name, parameter in model.named_parameters():
        if not parameter.dim():
            raise UserError(
                f"the parameter {name!r} is a single number without a dimension, which cannot be shared out",
                "train.parallel",
                'use "ddp"; whoever wrote the modality or backbone can give it the shape (1,)',
            )


def shard(root: nn.Module, model: MultiModalDiffusion) -> None:
    """Leave each process a part of every parameter (FSDP2); blocks of the backbone are gathered one by one.

    Blocks are what the backbone keeps in lists of modules, and calls as modules.

    Args:
        root: What is called from outside: the model, or what holds it.
        model: The joint model.
    """
    lists = [module for module in model.backbone.modules() if isinstance(module, nn.ModuleList)]
    for block in (block for blocks in lists for block in blocks):
        fully_shard(block)
    # What is called for the sake of its result alone gives the parts back at once: no backward pass will do so.
    fully_shard(root, reshard_after_forward=root is model)
    if root is model:
        for method in ("encode", "context"):  # called by themselves, and may need parameters
            register_fsdp_forward_method(model, method)


def whole_one(tensor: Tensor) -> Tensor:
    """A tensor as if one process had all of it; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process, in the same memory; all of it, unless it is shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor, if ``like`` is such a part of a tensor of the same shape."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def empty_like_part(like: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Room for what :func:`cut` gives of a tensor."""
    if not isinstance(like, DTensor) or like.shape != shape:
        return torch.empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype)


class ReplicatedLoss(DistributedDataParallel):
    """The loss, with gradients averaged over processes that each have the whole network."""

    def __init__(self, loss: TrainingLoss, device: torch.device) -> None:
        super().__init__(
            loss,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # what fills them keeps them alike
            gradient_as_bucket_view=True,  # saves a copy of them
            static_graph=True,  # features that no head of a recipe reads are found in the first backward pass, once
        )
        self.rehearsed = False

    def forward(self, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`TrainingLoss.forward`; before the first time, it is rehearsed."""
        if not self.rehearsed:
            self.rehearsed = True
            self._rehearse(*inputs)
        result: tuple[Tensor, dict[str, Tensor]] = super().forward(*inputs)  # type: ignore[no-untyped-call]
        return result

    def _rehearse(self, *inputs: Any) -> None:
        """Passes of which nothing is kept but what torch learns from the first ones.

        In the first, which has to average even where a step is computed in parts, it learns which parameters have
        gradients, in the second in what order they come; from the third on it sends them in that order, and so sums
        round in another way. The first step of a process must be like the others, or a run that goes on is another run.
        """
        sends, self.require_backward_grad_sync = self.require_backward_grad_sync, True
        for _ in range(2):
            with global_stream(0, "rehearsal"):
                total, _ = super().forward(*inputs)  # type: ignore[no-untyped-call]
            with torch.autocast(total.device.type, enabled=False):
                total.backward()
            self.zero_grad()
            torch.clear_autocast_cache()
        self.require_backward_grad_sync = sends


def wrapped(loss: TrainingLoss, world: World, device: torch.device) -> nn.Module:
    """The loss, with gradients averaged over the processes; sharded ones do so by themselves."""
    return loss if world.size == 1 or isinstance(loss, FSDPModule) else ReplicatedLoss(loss, device)


@contextmanager
def gradients_sent(loss: nn.Module, now: bool) -> Iterator[None]:
    """Whether gradients are averaged over the processes in this forward and backward pass: once a step is enough."""
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(now)
    with nullcontext() if now or not isinstance(loss, ReplicatedLoss) else loss.no_sync():
        yield
