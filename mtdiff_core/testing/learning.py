"""A joint model of two things that go together, trained for a second: does it read each off the other?

Letters for shapes: B batch, K pairs, c channels of a slot, H W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from mtdiff_core.diffusion.denoiser import Guidance
from mtdiff_core.diffusion.forward import ForwardProcess
from mtdiff_core.diffusion.model import MultiModalDiffusion
from mtdiff_core.diffusion.objective import MultiModalELBO, known_subsets
from mtdiff_core.directions import direction
from mtdiff_core.generation import Settings, generate
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.schedule import CosineSchedule
from mtdiff_core.testing.toys import Ground, ToyBackbone, by_default

if TYPE_CHECKING:
    from mtdiff_core.interfaces.aggregator import Aggregator
    from mtdiff_core.interfaces.backbone import Backbone
    from mtdiff_core.interfaces.modality import Modality

ROUNDS, STEPS, BATCH, RATE = 4, 80, 32, 1e-2
ASKED = 64  # samples in each direction
ENOUGH = 0.75  # share of them that has to be right: half would be by chance, and this is four standard errors more
GROUND = "ground"  # name of the kit's own anchor


@attrs.frozen(kw_only=True)
class Pairs:
    """Two samples of two modalities: what has the first value of one has the first of the other.

    Attributes:
        modalities: Both, bound.
        anchor: Name of the anchor.
        values: Model values, ``(2, ...)`` each.
        noise: Standard deviation of what is added to the values of a :class:`Ground`.
    """

    modalities: Mapping[str, Modality]
    anchor: str
    values: Mapping[str, Tensor]
    noise: float = 0.3

    def batch(self, which: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Values of the pairs ``which``, int64 ``(B,)``."""
        values = {name: x[which] for name, x in self.values.items()}
        for name, modality in self.modalities.items():
            if isinstance(modality, Ground):
                values[name] = values[name] + self.noise * torch.randn(values[name].shape, generator=random)
        return values


def ground(height: int, width: int) -> tuple[Ground, Tensor]:
    """The kit's own anchor, bound, and two values of it, dark and bright, ``(2, 1, H, W)``."""
    modality = Ground().bind(FieldSpec(shape=(1, height, width), dtype="float32"))
    return modality, torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, height, width)


def joint_model(
    pairs: Pairs, aggregator: Aggregator, options: Any, backbone: Backbone | None = None, *, observes: bool
) -> MultiModalDiffusion:
    """An untrained model of both.

    Args:
        pairs: What it is to learn.
        aggregator: How they are joined.
        options: The aggregator's for the modality that is not the anchor.
        backbone: The shared network; the kit's own by default.
        observes: Whether it is told what is known.
    """
    modalities, anchor = pairs.modalities, pairs.anchor
    others = [name for name in modalities if name != anchor]
    layout = aggregator.layout(
        anchor, modalities[anchor].anchor_shape(), {name: modalities[name].block_channels() for name in others}
    )
    process = ForwardProcess(
        schedule=by_default(CosineSchedule),
        aggregator=aggregator,
        layout=layout,
        anchor=anchor,
        options=dict.fromkeys(others, options),
    )
    with global_stream(0, "kit", "weights"):
        return MultiModalDiffusion(modalities, process, backbone or ToyBackbone(), observes=observes)


def learnt(model: MultiModalDiffusion, pairs: Pairs) -> dict[str, float]:
    """Train until both directions work, or long enough: :func:`share_right` by the name of what is given."""
    shares: dict[str, float] = {}
    for number in range(ROUNDS):
        train(model, pairs, number)
        shares = {name: share_right(model, pairs, name) for name in model.names}
        if min(shares.values()) >= ENOUGH:
            break
    return shares


def train(model: MultiModalDiffusion, pairs: Pairs, number: int) -> None:
    """Train for a round with the project's own objective."""
    names, random, steps = model.names, generator(0, "kit", "training", number), STEPS
    objective = MultiModalELBO(model=model, weights=dict.fromkeys(names, 1.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    model.train()
    for step in range(steps):
        values = pairs.batch(torch.randint(2, (BATCH,), generator=random), random)
        present = {name: torch.ones(BATCH, dtype=torch.bool) for name in names}
        told = known_subsets(BATCH, [True] * len(names), 0.7 if model.observes else 0.0, "single", random)
        known = dict(zip(names, told.T, strict=True))
        level = model.process.level(torch.rand(BATCH, generator=random)).to(dtype=torch.float32)
        noise = torch.randn(BATCH, *model.process.layout.space, generator=random)
        model.record(values, present)
        with global_stream(0, "kit", "dropout", number, step):
            loss = objective.training_loss(values, present, known, level, noise)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    model.eval()


def share_right(model: MultiModalDiffusion, pairs: Pairs, given: str) -> float:
    """Of values generated from the other's, how many are nearer to their own pair than to the other; 0.5 by chance.

    Args:
        model: Trained on the pairs.
        pairs: The pairs.
        given: Name of the modality that is known.
    """
    which = torch.arange(ASKED) % 2
    known = {given: pairs.batch(which, generator(0, "kit", "asked"))[given]}
    settings = Settings(steps=8, diffusion_steps=1000, sampler="ddim", guidance=Guidance(), batch_size=ASKED, seed=0)
    generated = generate(model, pairs.modalities, direction(known, pairs.modalities), known, ASKED, settings)
    (name,) = [other for other in pairs.modalities if other != given]
    encoder = model.encoder(name)
    with torch.no_grad():
        found, truth = encoder(generated.values[name]).flatten(1), encoder(pairs.values[name]).flatten(1)
    nearest = torch.cdist(found.float(), truth.float()).argmin(dim=1)
    return float((nearest == which).float().mean())


def far_apart(encodings: Tensor) -> Tensor:
    """Two rows of ``(N, c, H, W)`` that are about as far apart as any, int64 ``(2,)``."""
    flat = encodings.flatten(1).double()
    first = torch.cdist(flat, flat[:1]).argmax()
    second = torch.cdist(flat, flat[first : first + 1]).argmax()
    return torch.stack([first, second])
