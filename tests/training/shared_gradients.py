"""What one of several processes sees of averaged gradients, as JSON."""

import json

import torch
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

from mtdiff_core.training.parallel import gradients_sent, shard, whole_one, wrapped
from mtdiff_core.world import joined

STEPS = 3


class Network(nn.Module):
    """Two blocks in a list, as backbones have them, and features that nothing reads."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.blocks = nn.ModuleList(nn.Linear(37, 37) for _ in range(3))
        self.unread = nn.Linear(3, 3)


class Loss(nn.Module):
    """As TrainingLoss: a total and terms. The blocks are called in an order of their own."""

    def __init__(self):
        super().__init__()
        self.model = Network()

    def forward(self, x):
        for block in reversed(self.model.backbone.blocks):
            x = block(x).sin()
        total = nn.functional.dropout(x, 0.5).square().sum()
        return total, {"it": total.detach()}


def passes(loss, world, step, parts):
    """Gradients of a step that is computed in parts, and how many messages each part took."""
    torch.manual_seed(step)
    rows = torch.randn(parts, world.size, 4, 37)[:, world.rank]
    loss.zero_grad()
    messages = []
    for i, part in enumerate(rows):
        comm = CommDebugMode()
        with gradients_sent(loss, now=i == parts - 1):
            total, _ = loss(part)
            with comm:
                total.backward()
        messages.append(sum(n for op, n in comm.get_comm_counts().items() if "reduce" in str(op)))
    return {n: whole_one(p.grad).tolist() for n, p in loss.named_parameters() if p.grad is not None}, messages


def main(way, parts):
    """One process of those that share steps of so many parts in this way of train.parallel."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as world:

        def fresh():
            torch.manual_seed(0)
            loss = Loss()
            if way == "fsdp2":
                shard(loss, loss.model)
            return wrapped(loss, world, torch.device("cpu"))

        whole = fresh()
        steps = [passes(whole, world, step, parts) for step in range(STEPS)]
        alone, _ = passes(fresh(), world, STEPS - 1, parts)  # as the first step of a process
        last, _ = steps[-1]
        found = {
            "messages": [messages for _, messages in steps],
            "gradients": sorted(last),
            "differ": [name for name in last if alone[name] != last[name]],
        }
        print(json.dumps(found))
