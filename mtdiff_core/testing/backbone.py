"""The kit for backbones. Letters for shapes: B batch, C channels of the space, K channels of the context, H W."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.backbone import Backbone, Context, ContextShape, Features
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.testing.kit import Kit, check, require
from mtdiff_core.testing.learning import ENOUGH, GROUND, Pairs, ground, joint_model, learnt
from mtdiff_core.testing.modules import (
    COMPILER,
    awake,
    load_weights,
    other_device,
    require_device,
    require_gradient,
    require_no_batch_norm,
    saved_weights,
    where_values_are_unknown,
)
from mtdiff_core.testing.toys import Side, by_default

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import Shape

BATCH, FLAGS, OBSERVED = 3, 4, 2
ODD_SPACES: tuple[Shape, ...] = ((1, 1, 1), (1, 7, 5), (3, 6, 10))
ENDS = (math.inf, 20.0, 0.0, -20.0, -math.inf)


class BackboneKit(Kit):
    """Checks of a backbone.

    Attributes:
        space: Shape ``(C, H, W)`` of a space that it works on.
    """

    kind: ClassVar[str] = "backbone"
    space: ClassVar[Shape] = (2, 8, 8)

    def network(self, seed: int = 0, space: Shape | None = None) -> nn.Module:
        """Its network, as it is built, in evaluation mode."""
        backbone = cast("Backbone", self.made())
        with global_stream(seed, "kit", "backbone"):
            return backbone.build(space or self.space, ContextShape(channels=OBSERVED, flags=FLAGS)).eval()

    @check("give features of the shapes that feature_shapes promises")
    def test_features_have_the_shapes_that_were_promised(self) -> None:
        """Map, bottleneck and pooled vector; the map as large as the space."""
        with torch.no_grad():
            self._require_shapes(self.space)

    def _require_shapes(self, space: Shape) -> None:
        promised = cast("Backbone", self.made()).feature_shapes(space)
        features = self.network(space=space)(*_inputs(space))
        require(
            tuple(promised.map[1:]) == tuple(space[1:]),
            f"for a space of {tuple(space)} feature_shapes promises a map of {promised.map}",
            "give a map at full resolution, (F, H, W)",
        )
        for name, shape in (("map", promised.map), ("bottleneck", promised.bottleneck), ("pooled", (promised.pooled,))):
            given = tuple(getattr(features, name).shape)
            require(
                given == (BATCH, *shape),
                f"features.{name} has the shape {given}, and {tuple(shape)} was promised for each of {BATCH}",
                "let feature_shapes and forward agree",
            )

    @check("refuse a space with a UserError in feature_shapes, or work on it")
    def test_spaces_that_it_cannot_do_are_refused(self) -> None:
        """A size that does not suit it is answered with what would."""
        for space in ODD_SPACES:
            try:
                with torch.no_grad():
                    self._require_shapes(space)
            except UserError:
                continue

    @check("treat every sample by itself: no batch norm, and squeeze(dim) rather than squeeze()")
    def test_any_batch_size(self) -> None:
        """One sample alone gets the features that it gets among others."""
        network = awake(self.network())
        require_no_batch_norm(network)
        z, log_snr, context = _inputs(self.space)
        with torch.no_grad():
            many = network(z, log_snr, context)
            alone = network(z[:1], log_snr[:1], Context(observed=context.observed[:1], flags=context.flags[:1]))
        for name, both in _pairs(many, alone).items():
            require(
                both[1].shape == both[0][:1].shape and torch.allclose(both[0][:1], both[1], rtol=1e-3, atol=1e-3),
                f"features.{name} of a sample change with the others of its batch",
                "treat every sample by itself: group norm, not batch norm",
            )

    @check("features can be differentiated")
    def test_gradients_reach_every_parameter(self) -> None:
        """Every trainable parameter has a part in the features."""
        network = awake(self.network()).train()
        with global_stream(0, "kit", "dropout"):
            features = network(*_inputs(self.space))
        random = generator(0, "kit", "weights")
        weighted = [(x * torch.randn(x.shape, generator=random)).sum() for x in vars(features).values()]
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                require_gradient(f"parameter {name!r}", parameter.grad)

    @check("read z, log_snr and both parts of the context")
    def test_everything_is_heard(self) -> None:
        """The map and the pooled vector change with all that the network is told."""
        network = awake(self.network())
        z, log_snr, context = _inputs(self.space)
        others = {
            "z": (z + 1, log_snr, context),
            "log_snr": (z, log_snr + 3, context),
            "context.observed": (z, log_snr, Context(observed=context.observed + 1, flags=context.flags)),
            "context.flags": (z, log_snr, Context(observed=context.observed, flags=1 - context.flags)),
        }
        with torch.no_grad():
            before = network(z, log_snr, context)
            for what, inputs in others.items():
                after = network(*inputs)
                for name in ("map", "pooled"):
                    change = float((getattr(after, name) - getattr(before, name)).abs().max())
                    require(
                        change > 1e-6,
                        f"features.{name} does not change with {what}",
                        "let it have a part in them: samplers rely on being heard",
                    )

    @check("embed the log-SNR by a bounded function of it, such as its sigmoid")
    def test_both_ends_of_the_noise(self) -> None:
        """At an infinite log-SNR features and gradients are finite."""
        network = awake(self.network())
        z, _, context = _inputs(self.space, len(ENDS))
        features = network(z, torch.tensor(ENDS), context)
        torch.stack([x.sum() for x in vars(features).values()]).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        require(
            all(bool(x.isfinite().all()) for x in (*vars(features).values(), *gradients)),
            "at an infinite log-SNR features or gradients are not finite",
            "embed the log-SNR by a bounded function of it, such as its sigmoid",
        )

    @check("keep tensors in buffers, and make new ones where the inputs lie")
    def test_devices(self) -> None:
        """The network works where its weights and inputs lie."""
        device = other_device()
        z, log_snr, context = _inputs(self.space)
        told = Context(observed=context.observed.to(device), flags=context.flags.to(device))
        with where_values_are_unknown(device):
            features = self.network().to(device)(z.to(device), log_snr.to(device), told)
        require_device({f"features.{name}": x for name, x in vars(features).items()}, device)

    @check("keep what differs from network to network in parameters and persistent buffers")
    def test_save_and_load(self) -> None:
        """A network that is built anew and given the saved weights gives the same features."""
        first, second = awake(self.network(0)), self.network(1)
        load_weights(second, saved_weights(first), "network")
        with torch.no_grad():
            both = _pairs(first(*_inputs(self.space)), second(*_inputs(self.space)))
        for name, (before, after) in both.items():
            require(
                torch.allclose(before, after, rtol=1e-4, atol=1e-4),
                f"features.{name} differ after the weights were saved and loaded into a new network",
                "what is random when it is built must be a parameter or a buffer (persistent)",
            )

    @check("torch.compile follows tensors: no .item(), no numpy, no Python that depends on values")
    def test_it_compiles(self) -> None:
        """Compiled, it gives the same features."""
        network = awake(self.network())
        torch.compiler.reset()
        compiled = torch.compile(network, backend=COMPILER)
        both = _pairs(network(*_inputs(self.space)), compiled(*_inputs(self.space)))
        torch.compiler.reset()
        for name, (plain, traced) in both.items():
            require(
                torch.allclose(plain, traced, rtol=1e-3, atol=1e-3),
                f"features.{name} differ where it is compiled",
                "whatever is drawn or counted outside of tensors is kept from the first call: leave it out",
            )

    @check("compute norms and embeddings in float32")
    def test_it_works_in_bf16(self) -> None:
        """Under autocast features are finite, and about what they are otherwise."""
        network = self.network()
        with torch.no_grad():
            exact = network(*_inputs(self.space))
            with torch.autocast("cpu", torch.bfloat16):
                low = network(*_inputs(self.space))
        for name, (before, after) in _pairs(exact, low).items():
            off = float((before - after).double().square().mean().sqrt() / before.double().std().clamp(min=1e-3))
            require(
                math.isfinite(off) and off < 0.2,
                f"under bf16 autocast features.{name} are off by {off:.0%} of their spread",
                "compute in float32 what is a difference of large numbers: with torch.autocast(..., enabled=False)",
            )

    @check("mend first what other checks find; a joint model on it has to train, and to sample")
    def test_a_joint_model_learns(self) -> None:
        """What is known of one modality is found in the other."""
        modality, values = ground(*self.space[1:])
        side = Side().bind(FieldSpec(shape=(), dtype="int64", classes=("dark", "bright")))
        pairs = Pairs(
            modalities={GROUND: modality, "side": side},
            anchor=GROUND,
            values={GROUND: values, "side": torch.arange(2)},
        )
        aggregator, backbone = BlocksAggregator(), cast("Backbone", self.made())
        model = joint_model(pairs, aggregator, by_default(aggregator.ModalityOptions), backbone, observes=True)
        shares = learnt(model, pairs)
        for given, other in ((GROUND, "classes read off fields"), ("side", "fields generated from classes")):
            require(
                shares[given] >= ENOUGH,
                f"after a training on two values, {shares[given]:.0%} of the {other} are right, and by chance it "
                "would be 50%",
                "do features of different inputs differ enough, from the first step on? are they about as large as 1?",
            )


def _inputs(space: Shape, count: int = BATCH) -> tuple[Tensor, Tensor, Context]:
    """What a network is called with, always the same."""
    random = generator(0, "kit", "inputs")
    z = torch.randn(count, *space, generator=random)
    observed = torch.randn(count, OBSERVED, *space[1:], generator=random)
    flags = (torch.arange(count * FLAGS) % 3 == 0).float().reshape(count, FLAGS)
    return z, torch.linspace(-4, 4, count), Context(observed=observed, flags=flags)


def _pairs(first: Features, second: Features) -> dict[str, tuple[Tensor, Tensor]]:
    """Features of two kinds, by name."""
    return {name: (getattr(first, name), getattr(second, name)) for name in ("map", "bottleneck", "pooled")}
