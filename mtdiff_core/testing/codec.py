"""The kit for modalities: what encoder and decoder mean.

Letters for shapes: B batch, c channels of the slot, H W height and width of the space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mtdiff_core.aggregators.blocks import BlocksAggregator
from mtdiff_core.interfaces.backbone import Features
from mtdiff_core.interfaces.codec import InvertibleEncoder
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.randomness import generator, global_stream
from mtdiff_core.testing.kit import check, require, skip
from mtdiff_core.testing.learning import (
    ENOUGH,
    GROUND,
    Pairs,
    far_apart,
    ground,
    joint_model,
    learnt,
)
from mtdiff_core.testing.modules import awake
from mtdiff_core.testing.running import RunningChecks
from mtdiff_core.testing.subject import BATCH, Subject, certain
from mtdiff_core.testing.toys import Side, by_default

RMS = (1 / 3, 3.0)  # "about unit"
AGREEMENT = 0.05  # of the encodings' RMS
DRAWS = 400
WIDE, POINTS, TAIL = 60.0, 120_000, 1e-6  # of a density: how far it is looked at, and what is as good as 0 there
STEP = 0.02  # in the features, for differences


class CodecChecks(RunningChecks):
    """Checks of what an encoder and a decoder mean."""

    @check("encoder(slot) and decoder(slot, features) work in every slot that they do not refuse with a UserError")
    def test_shapes(self) -> None:
        """Encodings fill their slot, and distributions have a batch of samples and the event of a value."""
        subject = self.subject()
        values = subject.prepared()
        for slot in subject.slots:
            encoder, filled = subject.encoder(slot), (BATCH, *slot)
            encoding = encoder(values)
            _require_shape("the encoder", encoding, filled, "encode (B, ...) as (B, c, H, W), the shape of the slot")
            require(
                encoding.dtype == torch.float32, f"encodings are {encoding.dtype}", "encode as float32: values.float()"
            )
            with torch.no_grad():
                said = subject.decoder(slot)(subject.random_features(), subject.noisy_slot(slot=slot))
            batch, event = tuple(said.batch_shape), tuple(said.event_shape)
            require(
                batch == (BATCH,) and event == tuple(values.shape[1:]),
                f"p(x | z) of {BATCH} values of shape {tuple(values.shape[1:])} has batch_shape {batch} "
                f"and event_shape {event}",
                "drop dimensions that a value does not have, such as that of Linear(..., 1), and wrap the others: "
                "torch.distributions.Independent(distribution, number of the value's dimensions)",
            )
            _require_shape("log_prob", said.log_prob(values), (BATCH,), "sum over a sample's entries")
            of_values = subject.modality.log_likelihood(said, values)
            _require_shape("log_likelihood", of_values, (BATCH,), "sum over a sample's entries")
            mode = said.mode
            _require_shape("the distribution's mode", mode, tuple(values.shape), "it is a value, as prepare gives them")
            require(mode.dtype == values.dtype, f"modes are {mode.dtype}, values {values.dtype}", "give one dtype")
            _require_shape("expected", encoder.expected(said), filled, "it is an encoding")
            revealed = encoder.reveals(values)
            if revealed is not None:
                _require_shape("reveals", revealed, (BATCH, 1, *slot[1:]), "a bool for each place")

    @check("expected(distribution) is the mean of forward(value) over the distribution")
    def test_encoder_and_decoder_agree(self) -> None:
        """A distribution that is certain of a value is encoded as the value is."""
        subject = self.subject()
        encoder, said = subject.encoder(), certain(subject)
        with torch.no_grad():
            truth = encoder(said.mode)
            size = torch.maximum(rms(truth), rms(encoder(subject.prepared())))
            off = float(rms(encoder.expected(said) - truth) / size)
        require(
            off < AGREEMENT,
            f"where the head is certain of a value, expected(distribution) is {off:.0%} (of its RMS) away from "
            "the value's own encoding",
            "expected() of a distribution that is certain of x equals forward(x)",
        )

    @check("draw values with the distribution's sample()")
    def test_expected_is_the_mean_of_encodings(self) -> None:
        """``expected`` is the mean of the encodings of draws, also where the distribution is uncertain."""
        subject = self.subject()
        encoder = subject.encoder()
        with torch.no_grad(), global_stream(0, "kit", "draws"):
            said = awake(subject.decoder())(subject.random_features(), subject.noisy_slot(signal=0.3))
            drawn = _drawn(said)
            encodings = torch.stack([encoder(values) for values in drawn]).double()  # (DRAWS, B, c, H, W)
            found, error = encodings.mean(dim=0), encodings.std(dim=0) / DRAWS**0.5
            off = (encoder.expected(said) - found).abs() - 6 * error
        require(
            float(off.max()) < 0.01,
            f"the mean encoding of {DRAWS} draws lies {float(off.max()):.2g} further from expected(distribution) than "
            "six standard errors",
            "give E[forward(x)], not forward(E[x]) or forward(mode): of classes sum_k p_k forward(k)",
        )

    @check("encode prepared values")
    def test_unit_rms(self) -> None:
        """Encodings are about as large as the noise that hides them."""
        subject = self.subject()
        for slot in subject.slots:
            with torch.no_grad():
                found = float(rms(subject.encoder(slot)(subject.prepared(len(subject.rows)))))
            require(
                RMS[0] <= found <= RMS[1],
                f"encodings in a slot of shape {tuple(slot)} have an RMS of {found:.3g}",
                "scale them so that it is about 1, or noise hides all of them, or nothing. Does prepare divide by the "
                "standard deviation? Are the kit's values as the data has them?",
            )

    @check("invert undoes forward")
    def test_one_to_one_encoders_invert(self) -> None:
        """What says it is one-to-one is."""
        subject = self.subject()
        modality, encoder = subject.modality, subject.encoder()
        if not modality.one_to_one:
            raise skip("it is for one-to-one modalities")
        require(
            isinstance(encoder, InvertibleEncoder),
            f"one_to_one is set, and its encoder, {type(encoder).__name__}, is no InvertibleEncoder",
            "derive the encoder from mtdiff_core.InvertibleEncoder, or leave one_to_one at False",
        )
        assert isinstance(encoder, InvertibleEncoder)
        values = subject.prepared()
        with torch.no_grad():
            back = encoder.invert(encoder(values))
        _require_shape("invert", back, tuple(values.shape), "give values back")
        off = float((back.double() - values.double()).abs().max())
        require(off <= 1e-5, f"invert(forward(x)) is off by {off:.2g}", "undo every step of forward, to 1e-5")

    @check("log_prob is the logarithm of a probability, or of a density, of what sample() draws")
    def test_log_probabilities_integrate_to_one(self) -> None:
        """Probabilities add up to one, where that can be counted; everywhere their scores average to zero."""
        subject = self.subject()
        decoder, slot = awake(subject.decoder()), subject.noisy_slot(signal=0.3)
        features = subject.random_features()
        with torch.no_grad():
            said = decoder(features, slot)
            total = _total(said, subject)
            if total is not None:
                off = float((total - 1).abs().max())
                require(off < 1e-3, f"probabilities add up to 1 {off:+.2g}", "normalise log_prob")
            with global_stream(0, "kit", "draws"):
                drawn = _drawn(said)
            there, back = (_stepped(features, sign * STEP) for sign in (1, -1))
            higher, lower = decoder(there, slot), decoder(back, slot)
            scores = torch.stack([higher.log_prob(x) - lower.log_prob(x) for x in drawn]).double() / (2 * STEP)
        mean, error = scores.mean(dim=0), scores.std(dim=0) / DRAWS**0.5  # (B,)
        off = float((mean.abs() - 6 * error).max())
        require(
            off < 0.05,
            f"over {DRAWS} draws, d log_prob / d features averages to {float(mean.abs().max()):.2g}; it would be 0 if "
            "log_prob were normalised, and of what sample() draws",
            "a normalising constant that depends on the head's answer is missing (log std, logsumexp), or sample() "
            "draws from something else",
        )

    @check("a sample that lacks the field gets zeros: all that comes of them must be finite, and is then left out")
    def test_missing_values(self) -> None:
        """What stands for a missing value passes through everything, and leaves nothing behind."""
        subject = self.subject()
        rows = subject.rows[:BATCH].clone()
        rows[::2] = 0
        values = subject.modality.prepare(rows, generator(0, "kit", "prepare"))
        encoding = subject.encoder()(values)
        require(
            bool(encoding.isfinite().all()),
            "the encoding of a missing value, for which the field holds 0, is not finite",
            "0 times it is not 0 then: keep prepare and the encoder finite, such as by clamping",
        )
        decoder = subject.decoder()
        features = Features(**{n: x.requires_grad_() for n, x in vars(subject.random_features()).items()})
        log_prob = decoder(features, subject.noisy_slot()).log_prob(values)
        torch.where(torch.arange(BATCH) % 2 == 1, log_prob, 0).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [x.grad for x in (*vars(features).values(), *decoder.parameters()) if x.grad is not None]
        require(
            all(bool(gradient.isfinite().all()) for gradient in gradients),
            "a missing value, for which the field holds 0, spoils the gradients of the others",
            "keep log_prob finite for it",
        )
        before = {name: x.clone() for name, x in decoder.state_dict().items()}
        decoder.record(values, torch.zeros(BATCH, dtype=torch.bool))
        changed = [name for name, x in decoder.state_dict().items() if not x.equal(before[name])]
        require(not changed, f"record counts what is not present, in {', '.join(changed)}", "count values[present]")

    @check("mend first what other checks find; a joint model with it has to train, and to sample")
    def test_it_learns(self) -> None:
        """A joint model reads it off its pair and its pair off it."""
        subject = self.subject()
        values = subject.prepared(32)
        with torch.no_grad():
            two = far_apart(subject.encoder()(values))
        self._require_learning("it", subject.modality, values[two], as_anchor=False)
        if isinstance(subject.encoder(), InvertibleEncoder):
            self._require_learning("it, as the anchor,", subject.modality, values[two], as_anchor=True)

    def _require_learning(self, called: str, modality: Modality, values: Tensor, *, as_anchor: bool) -> None:
        height, width = self.subject().size
        other: Modality
        if as_anchor:
            other = Side().bind(FieldSpec(shape=(), dtype="int64", classes=("dark", "bright")))
            others = torch.arange(2)
        else:
            other, others = ground(height, width)
        pairs = Pairs(
            modalities={GROUND: other, "it": modality},
            anchor="it" if as_anchor else GROUND,
            values={GROUND: others, "it": values},
        )
        aggregator = BlocksAggregator()
        model = joint_model(pairs, aggregator, by_default(aggregator.ModalityOptions), observes=True)
        shares = learnt(model, pairs)
        for given, what in ((GROUND, f"{called} is not read off what goes with it"), ("it", f"{called} tells nothing")):
            require(
                shares[given] >= ENOUGH,
                f"after a training on two values, {what}: {shares[given]:.0%} of the answers are right, "
                "and by chance it would be 50%",
                "do encodings of different values differ? does the head use its features, and is its mode what it "
                "learnt?",
            )


def rms(x: Tensor) -> Tensor:
    """Root mean square."""
    return x.double().square().mean().sqrt()


def _require_shape(what: str, given: Tensor, expected: tuple[int, ...], mend: str) -> None:
    shape = tuple(given.shape)
    require(shape == expected, f"{what} gave the shape {shape}, not {expected}", mend)


def _drawn(said: Distribution) -> Tensor:
    """Values ``(DRAWS, B, ...)``."""
    try:
        drawn: Tensor = said.sample(torch.Size([DRAWS]))
    except NotImplementedError as error:
        raise skip("the distribution draws no samples") from error
    return drawn


def _stepped(features: Features, step: float) -> Features:
    """Features a small step away, in a fixed direction."""
    random = generator(0, "kit", "direction")
    return Features(**{n: x + step * torch.randn(x.shape, generator=random) for n, x in vars(features).items()})


def _total(said: Distribution, subject: Subject) -> Tensor | None:
    """What the probabilities of all values add up to, ``(B,)``; None if they are too many to count."""
    classes = len(subject.modality.spec.classes)
    entries = said.event_shape.numel()
    if not said.event_shape and classes and subject.prepared(1).dtype == torch.int64:
        every = torch.arange(classes)[:, None].expand(-1, BATCH)  # (K, B)
        return torch.stack([said.log_prob(values) for values in every]).double().exp().sum(dim=0)
    if entries == 1 and subject.prepared(1).dtype == torch.float32:
        return _integral(said)
    return None


def _integral(said: Distribution) -> Tensor | None:
    """What the density of one number integrates to, ``(B,)``; None where it has no end, or none that is known."""
    support = _support(said)
    whole = support is constraints.real
    bounds = (-WIDE, WIDE) if whole else [getattr(support, f"{name}_bound", None) for name in ("lower", "upper")]
    if None in bounds:
        return None
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in bounds)
    middles = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    values = middles.reshape(-1, *[1] * (1 + len(said.event_shape))) * (high - low) + low
    density = said.log_prob(values.float().expand(-1, BATCH, *said.event_shape)).double().exp()  # (POINTS, B)
    if whole and float(torch.maximum(density[0], density[-1]).max()) > TAIL:
        return None  # an angle's, say, goes on for ever
    return density.mean(dim=0) * (high - low).reshape(-1)


def _support(said: Distribution) -> Any:
    """Where a density of one number may be above 0; everywhere if it does not say."""
    try:
        support = said.support
    except (NotImplementedError, AttributeError):
        return constraints.real
    return getattr(support, "base_constraint", support)
