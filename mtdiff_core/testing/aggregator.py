"""The kit for aggregators. Letters for shapes: B batch, C channels of the space, c channels of a slot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mtdiff_core.diffusion.forward import ForwardProcess, NoiseLevel, posterior_gain, relative_levels
from mtdiff_core.interfaces.aggregator import Aggregator, Layout
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.randomness import generator
from mtdiff_core.recipe.builder import read_component
from mtdiff_core.schedule import CosineSchedule, NoiseSchedule, RectifiedFlowSchedule
from mtdiff_core.testing.kit import Kit, check, require, skip
from mtdiff_core.testing.learning import ENOUGH, GROUND, Pairs, ground, joint_model, learnt
from mtdiff_core.testing.modules import other_device, require_device, where_values_are_unknown
from mtdiff_core.testing.toys import Side, by_default

ANCHOR, SHAPE = "anchor", (2, 4, 6)
BLOCKS = {"one": 1, "two": 3}
TIMES = (0.02, 0.1, 0.3, 0.5, 0.8, 0.95)


class AggregatorKit(Kit):
    """Checks of an aggregator.

    Attributes:
        modality_options: What stands for it in the table of every modality but the anchor.
    """

    kind: ClassVar[str] = "aggregator"
    modality_options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def aggregator(cls) -> tuple[Aggregator, Any]:
        """The aggregator, and its options for a modality."""
        aggregator = cast("Aggregator", cls.made())
        own: Any = read_component(
            dict(cls.modality_options), "modality_options", aggregator.ModalityOptions, cls.looked_up_in(), cls.__name__
        )
        return aggregator, own

    @check("lay out every modality, with the anchor's own shape for the anchor")
    def test_layout(self) -> None:
        """Each modality has channels of the space, the anchor as many as its encoding; with and without others."""
        aggregator, _ = self.aggregator()
        for others in ({}, {"one": 1}, BLOCKS):
            layout = aggregator.layout(ANCHOR, SHAPE, others)
            names = {ANCHOR, *others}
            require(
                set(layout.slots) == names,
                f"of {names} slots have {set(layout.slots)}",
                "give each a slot, and no other",
            )
            require(
                tuple(layout.space[1:]) == SHAPE[1:] and tuple(layout.slot_shape(ANCHOR)) == SHAPE,
                f"for an anchor of shape {SHAPE} the space is {layout.space}, the anchor's slot "
                f"{layout.slot_shape(ANCHOR)}",
                "keep the anchor's height and width, and give it as many channels as its encoding has",
            )
            for name, (start, stop) in layout.slots.items():
                require(
                    0 <= start < stop <= layout.space[0],
                    f"{name!r} has the channels {start} to {stop} of {layout.space[0]}",
                    "give ranges (start, stop) within the space",
                )

    @check("compute coefficients from the levels alone, with tensor methods")
    def test_coefficients_at_both_ends(self) -> None:
        """Pure noise carries nothing, clean data something finite; shape and dtype are those of the levels."""
        for dtype in (torch.float64, torch.float32):
            alpha, sigma = _levels(dtype)
            c = self._coefficient(alpha, sigma)
            require(
                c.shape == alpha.shape and c.dtype == dtype,
                f"coefficient gave {c.dtype} of shape {tuple(c.shape)} for levels of {dtype}, {tuple(alpha.shape)}",
                "compute it from alpha and sigma, entry by entry",
            )
            require(
                bool(c.isfinite().all()),
                f"a coefficient is {c[~c.isfinite()][:1].tolist()}",
                "at neither end may it divide by a level, which is 0 at one of them",
            )
            require(
                not bool(c[alpha == 0].any()),
                f"where the signal is 0, the coefficient is {float(c[alpha == 0][0]):.3g}",
                "make it 0 there, or z_T is no pure noise and sampling begins from what it does not know",
            )

    @check("say in carries() whether the coefficient is ever other than 0")
    def test_carries_says_what_coefficients_do(self) -> None:
        """``carries`` is true where a coefficient is not 0."""
        aggregator, own = self.aggregator()
        ever = bool(self._coefficient(*_levels(torch.float64)).any())
        require(
            aggregator.carries(own) == ever,
            f"carries() says {aggregator.carries(own)}, and coefficients are {'not ' * ever}all 0",
            "return whether the coefficient is ever other than 0 with these options",
        )

    @check("compute coefficients from the levels alone")
    def test_gaussian_identities(self) -> None:
        """Marginals, transitions and posteriors are of one process, whatever is asked for together."""
        for schedule in (by_default(CosineSchedule), by_default(RectifiedFlowSchedule)):
            process = self._process(schedule)
            together = process.level(torch.tensor(TIMES))
            shapes = {name: process.layout.slot_shape(name) for name in process.layout.slots}
            encodings = {
                name: torch.randn(len(TIMES), *shape, dtype=torch.float64, generator=generator(0, "kit", name))
                for name, shape in shapes.items()
            }
            means = process.mean(encodings, together)
            for earlier, later in pairwise(range(len(TIMES))):
                self._require_identities(process, {n: e[:1] for n, e in encodings.items()}, together, earlier, later)
            require(bool(means.isfinite().all()), "the mean of z_t is not finite", "keep coefficients finite")

    def _require_identities(
        self, process: ForwardProcess, encodings: Mapping[str, Tensor], together: NoiseLevel, s: int, t: int
    ) -> None:
        """Between two of the times, each also asked for by itself."""
        mend = "compute each coefficient from its own level, not from the others of a batch or from earlier calls"
        first, second = (process.level(torch.tensor([TIMES[i]])) for i in (s, t))
        m_s, m_t = (process.mean(encodings, _row(together, i)) for i in (s, t))
        var_s, var_t = first.sigma**2, second.sigma**2
        moved = process.transition(m_s, encodings, first, second)
        alpha_ts, _ = relative_levels(first, second)
        back, gain = process.posterior(m_t, encodings, first, second), posterior_gain(first, second)
        for what, found, expected in (
            ("the mean of q(z_t | X) is not that of q(z_t | z_s, X) over q(z_s | X)", moved.mean, m_t),
            ("the variance of q(z_t | X) is not that of both steps", alpha_ts**2 * var_s + moved.std**2, var_t),
            ("the mean of q(z_s | X) is not that of q(z_s | z_t, X) over q(z_t | X)", back.mean, m_s),
            ("the variance of q(z_s | X) is not that of the posterior", gain**2 * var_t + back.std**2, var_s),
        ):
            off = float((found - expected).abs().max())
            require(off < 1e-8, f"{what}: off by {off:.2g} at times {TIMES[s]:g} and {TIMES[t]:g}", mend)

    @check("shift the log-SNR of a block of its own alone")
    def test_only_own_channels_are_shifted(self) -> None:
        """Who shares channels leaves their noise as it is."""
        aggregator, own = self.aggregator()
        layout, shift = aggregator.layout(ANCHOR, SHAPE, BLOCKS), aggregator.log_snr_shift(own)
        require(math.isfinite(shift), f"log_snr_shift is {shift}", "give a finite number")
        for name in BLOCKS:
            require(
                not shift or not _shares(layout, name),
                f"log_snr_shift is {shift:g}, and {name!r} shares its channels with others",
                "shift blocks of their own only: the noise of a channel is one for all that write to it",
            )

    @check("compute coefficients with tensor methods, on the device of the levels")
    def test_devices(self) -> None:
        """Coefficients lie where the levels do."""
        device = other_device()
        alpha, sigma = (x.to(device) for x in _levels(torch.float32))
        with where_values_are_unknown(device):
            given = {"coefficient": self._coefficient(alpha, sigma)}
        require_device(given, device)

    @check("mend first what other checks find; a joint model that is joined by it has to train, and to sample")
    def test_a_joint_model_learns(self) -> None:
        """What is known of one modality is found in the other, through z_t alone."""
        aggregator, own = self.aggregator()
        if not bool(self._coefficient(*_levels(torch.float64)).any()):
            raise skip("with these options z_t carries no modality but the anchor")
        modality, values = ground(8, 8)
        side = Side().bind(FieldSpec(shape=(), dtype="int64", classes=("dark", "bright")))
        pairs = Pairs(
            modalities={GROUND: modality, "side": side},
            anchor=GROUND,
            values={GROUND: values, "side": torch.arange(2)},
        )
        shares = learnt(joint_model(pairs, aggregator, own, observes=False), pairs)
        for given, other in ((GROUND, "the other modality"), ("side", "the anchor")):
            require(
                shares[given] >= ENOUGH,
                f"after a training on two values, {shares[given]:.0%} of {other} is generated as what is known asks "
                "for, and by chance it would be 50%",
                "are coefficients large enough to be seen beside the noise, between pure noise and clean data?",
            )

    @classmethod
    def _coefficient(cls, alpha: Tensor, sigma: Tensor) -> Tensor:
        aggregator, own = cls.aggregator()
        return aggregator.coefficient(own, alpha, sigma)

    @classmethod
    def _process(cls, schedule: NoiseSchedule) -> ForwardProcess:
        aggregator, own = cls.aggregator()
        layout = aggregator.layout(ANCHOR, SHAPE, BLOCKS)
        return ForwardProcess(
            schedule=schedule, aggregator=aggregator, layout=layout, anchor=ANCHOR, options=dict.fromkeys(BLOCKS, own)
        )


def _levels(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Signal and noise from pure noise to clean data, ``(B, 3, 1, 1)`` each."""
    share = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None, None, None].expand(-1, 3, 1, 1)
    return share.sqrt().to(dtype), (1 - share).sqrt().to(dtype)


def _row(level: NoiseLevel, index: int) -> NoiseLevel:
    """One sample's level."""
    one = slice(index, index + 1)
    return NoiseLevel(
        log_snr=level.log_snr[one],
        alpha=level.alpha[one],
        sigma=level.sigma[one],
        coefficient={name: c[one] for name, c in level.coefficient.items()},
    )


def _shares(layout: Layout, name: str) -> bool:
    """Whether any other modality writes to the channels of this one."""
    own = set(range(*layout.slots[name]))
    return any(own & set(range(*slot)) for other, slot in layout.slots.items() if other != name)
