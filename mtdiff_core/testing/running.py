"""The kit for modalities: that encoder and decoder run wherever models run.

Letters for shapes: B batch, c channels of the slot, H W height and width of the space.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from mtdiff_core.interfaces.backbone import Features
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.testing.kit import Kit, check, require
from mtdiff_core.testing.modules import (
    COMPILER,
    awake,
    features_moved,
    features_of_rows,
    load_weights,
    other_device,
    require_device,
    require_gradient,
    require_no_batch_norm,
    saved_weights,
    where_values_are_unknown,
)
from mtdiff_core.testing.subject import BATCH, Subject, moved, rows_of

if TYPE_CHECKING:
    from mtdiff_core.interfaces.codec import Decoder, Encoder


class RunningChecks(Kit):
    """Checks of how an encoder and a decoder run."""

    @classmethod
    @abstractmethod
    def subject(cls) -> Subject:
        """The modality with values of its own."""

    @check("keep tensors in buffers, and make new ones where the inputs lie")
    def test_devices(self) -> None:
        """Encoder and decoder work where their weights and inputs lie, all of them."""
        subject, device = self.subject(), other_device()
        values = subject.prepared().to(device)
        encoder, decoder = subject.encoder().to(device), subject.decoder().to(device)
        features = features_moved(subject.random_features(), device)
        slot = moved(subject.noisy_slot(), device)
        given: dict[str, Tensor] = {}
        with where_values_are_unknown(device):
            given["the encoder"] = encoder(values)
            said = decoder(features, slot)
            given["log_prob"], given["the mode"] = said.log_prob(values), said.mode
            given["expected"] = encoder.expected(said)
            decoder.record(values, torch.ones(BATCH, dtype=torch.bool, device=device))
        require_device(given, device)

    @check("log_prob and encodings can be differentiated")
    def test_gradients_reach_every_parameter(self) -> None:
        """Every trainable parameter learns something, and the network learns from the head."""
        subject = self.subject()
        values = subject.prepared()
        encoder, decoder = awake(subject.encoder()).train(), awake(subject.decoder()).train()
        features = Features(**{n: x.requires_grad_() for n, x in vars(subject.random_features()).items()})
        with global_stream(0, "kit", "dropout"):
            said = decoder(features, subject.noisy_slot(signal=0.3))
            encoding = encoder(values)
            weights = torch.randn(encoding.shape, generator=generator(0, "kit", "weights"))
            (said.log_prob(values).sum() + (weights * encoding).sum()).backward()
        for side, module in (("encoder", encoder), ("decoder", decoder)):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    require_gradient(f"parameter {name!r} of the {side}", parameter.grad)
        heard = [x.grad for x in vars(features).values() if x.grad is not None and bool(x.grad.any())]
        require(bool(heard), "the decoder hears none of its features", "read features.map or features.pooled")

    @check("treat every sample by itself, and never drop a dimension of length 1: squeeze(dim), not squeeze()")
    def test_batch_of_one(self) -> None:
        """One sample alone gets what it gets among others."""
        subject, one = self.subject(), slice(0, 1)
        modality, values = subject.modality, subject.prepared()
        encoder, decoder, slot = subject.encoder(), awake(subject.decoder()), subject.noisy_slot(signal=0.3)
        features = subject.random_features()
        for module in (encoder, decoder):
            require_no_batch_norm(module)
        with torch.no_grad():
            many = decoder(features, slot)
            alone = decoder(features_of_rows(features, one), rows_of(slot, one))
            both: dict[str, tuple[Tensor, Tensor]] = {
                "the encoder": (encoder(values[one]), encoder(values)),
                "log_prob": (alone.log_prob(values[one]), many.log_prob(values)),
                "the mode": (alone.mode, many.mode),
                "expected": (encoder.expected(alone), encoder.expected(many)),
                "natural": (modality.natural(values[one]), modality.natural(values)),
            }
            pictures = modality.render(values[one]), modality.render(values)
        if pictures[0] is not None and pictures[1] is not None:
            both["render"] = (pictures[0], pictures[1])
        for what, (single, several) in both.items():
            require(
                single.shape == several[:1].shape and torch.allclose(single, several[:1], rtol=1e-3, atol=1e-4),
                f"{what} gives one sample alone {tuple(single.shape)}, and among others {tuple(several[:1].shape)} "
                "or other values",
                "treat every sample by itself, whatever their number",
            )
        require(
            len(modality.prepare(subject.rows[:1].clone(), generator(0))) == 1, "prepare loses a single row", "keep it"
        )
        words = modality.describe(values[one], alone)
        require(words is None or len(words) == 1, f"describe says {words!r} of one value", "say one text")

    @check("keep what differs from model to model in parameters and persistent buffers")
    def test_save_and_load(self) -> None:
        """A model that is built anew and given the saved weights says the same."""
        subject = self.subject()
        values, features, slot = subject.prepared(), subject.random_features(), subject.noisy_slot(signal=0.3)
        for name, tensor in subject.modality.state.items():
            require(
                isinstance(tensor, Tensor) and tensor.device.type == "cpu",
                f"fit gave {name!r}, which is no tensor on the host",
                "give tensors by name: tensor.cpu()",
            )
        answers = []
        saved: dict[str, bytes] = {}
        for seed in (0, 1):
            encoder, decoder = subject.encoder(seed=seed), subject.decoder(seed=seed)
            for name, module in (("encoder", encoder), ("decoder", decoder)):
                if seed == 0:
                    awake(module)
                    saved[name] = saved_weights(module)
                else:
                    load_weights(module, saved[name], name)
            with torch.no_grad():
                answers.append((encoder(values), decoder(features, slot).log_prob(values)))
        for what, before, after in zip(("the encoder", "the decoder"), *answers, strict=True):
            require(
                torch.allclose(before, after, rtol=1e-4, atol=1e-5),
                f"{what} says something else after its weights were saved and loaded into a new one",
                "what is random when it is built must be a parameter or a buffer (persistent), or come from an option "
                "such as a seed",
            )

    @check("torch.compile follows tensors: no .item(), no numpy, no Python that depends on values")
    def test_it_compiles(self) -> None:
        """Compiled, it trains as it does otherwise."""
        subject = self.subject()
        values, slot, features = subject.prepared(), subject.noisy_slot(signal=0.3), subject.random_features()

        def loss(encoder: Encoder, decoder: Decoder, features: Features) -> Tensor:
            said: Distribution = decoder(features, slot)
            total: Tensor = encoder(values).square().sum() - said.log_prob(values).sum() + encoder.expected(said).sum()
            return total

        torch.compiler.reset()
        plain, compiled = (
            _with_gradients(run, subject.encoder(), awake(subject.decoder()), features)
            for run in (loss, torch.compile(loss, backend=COMPILER))
        )
        torch.compiler.reset()
        require(
            all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(plain, compiled, strict=True)),
            "compiled, it gives another loss or other gradients",
            "whatever is drawn or counted outside of tensors is kept from the first call: leave it out",
        )

    @check("make a head's answer float32 before it becomes a distribution: layers(features.map).float()")
    def test_it_works_in_bf16(self) -> None:
        """Under autocast the loss is float32, finite, and about what it is otherwise."""
        subject = self.subject()
        values, slot, features = subject.prepared(), subject.noisy_slot(signal=0.3), subject.random_features()
        encoder, decoder = subject.encoder(), awake(subject.decoder())
        exact = decoder(features, slot).log_prob(values).detach()
        with torch.autocast("cpu", torch.bfloat16):
            low = Features(**{n: x.bfloat16() for n, x in vars(features).items()})
            said = decoder(low, slot)
            encoding, expected, log_prob = encoder(values), encoder.expected(said), said.log_prob(values)
        log_prob.sum().backward()
        require(
            log_prob.dtype == torch.float32,
            f"log_prob is {log_prob.dtype} under bf16 autocast",
            "make the head's answer float32 before it becomes a distribution: layers(features.map).float()",
        )
        finite = [x.isfinite().all() for x in (encoding, expected, log_prob)]
        finite += [x.grad.isfinite().all() for x in decoder.parameters() if x.grad is not None]
        off = (log_prob.detach() - exact).abs() / (1 + exact.abs())
        require(
            all(map(bool, finite)) and float(off.max()) < 0.2,
            f"under bf16 autocast something is not finite, or log_prob is off by {float(off.max()):.0%}",
            "compute in float32 what is a difference of large numbers: with torch.autocast(..., enabled=False)",
        )


def _with_gradients(
    loss: Callable[[Encoder, Decoder, Features], Tensor], encoder: Encoder, decoder: Decoder, features: Features
) -> list[Tensor]:
    """A loss, and the gradients of the features that are heard."""
    inputs = Features(**{name: x.clone().requires_grad_() for name, x in vars(features).items()})
    total = loss(encoder, decoder, inputs)
    gradients = torch.autograd.grad(total, list(vars(inputs).values()), allow_unused=True)
    return [total.detach(), *(gradient for gradient in gradients if gradient is not None)]
