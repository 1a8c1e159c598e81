"""Everything that is measured of a recipe on one machine, as JSON data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mtdiff_core.benchmark.memory import peak_memory
from mtdiff_core.benchmark.parts import parts_of_step
from mtdiff_core.benchmark.peaks import Peak, Sizes, convolution_peak, matmul_peak
from mtdiff_core.benchmark.subjects import SAMPLING_STEPS, BareNetwork, Opened, SamplingRun, TrainingStep
from mtdiff_core.benchmark.timing import Measured, Subject, interleaved, synchroniser, to_json
from mtdiff_core.benchmark.variants import VARIANTS, variants_json
from mtdiff_core.training.run_directory import environment

if TYPE_CHECKING:
    from mtdiff_core.interfaces.workshop import Progress
    from mtdiff_core.recipe.recipe import Recipe
    from mtdiff_core.registry.registry import Registry

TRAINING, BARE_TRAINING = "training step", "bare training step"
SAMPLING, BARE_SAMPLING = "sampling step", "bare forward"
LOADER = "loading a batch"


@attrs.frozen(kw_only=True)
class BenchmarkOptions:
    """How closely is measured.

    Attributes:
        rounds: Times that everything is timed, at least 1.
        compiled: Whether compiled variants are timed too; compiling takes minutes.
    """

    rounds: int
    compiled: bool


def benchmark(
    recipe: Recipe, registry: Registry, device: torch.device, options: BenchmarkOptions, progress: Progress
) -> dict[str, Any]:
    """Measure a recipe; nothing is written, but for what its modalities keep in the cache.

    Ratios are medians over the rounds of quotients within a round, so that what else the machine does counts for
    little.

    Args:
        recipe: The recipe.
        registry: Plugins.
        device: Where to run.
        options: How closely.
        progress: Shows each part of the work.

    Raises:
        UserError: The recipe's data cannot be read, or its parts do not fit each other.
    """
    opened = Opened.of(recipe, registry, device, progress)
    bench = _Bench(opened)
    variants = [variant for variant in VARIANTS if options.compiled or not variant.options.get("compile")]
    memory = {"training": peak_memory(bench.step, device), "sampling": peak_memory(bench.sampling, device)}
    figures = bench.figures(options.rounds, progress)
    advance = progress("training step, computed otherwise", len(variants) + options.rounds)
    return {
        "recipe": recipe.to_tables(),
        "environment": environment(recipe.seed, registry, device),
        "settings": {"rounds": options.rounds, **bench.settings()},
        **figures,
        "peak_memory": memory,
        "variants": variants_json(opened, bench.batch, variants, options.rounds, bench.synchronise, advance),
    }


class _Bench:
    """A trainer's steps beside its bare network.

    Args:
        opened: The recipe.
    """

    def __init__(self, opened: Opened) -> None:
        self.device, self.trainer = opened.device, opened.trainer()
        self.batches = iter(self.trainer.loader)
        self.batch = next(self.batches)
        self.step, self.bare = TrainingStep(self.trainer, self.batch), BareNetwork(self.trainer, self.batch)
        self.sampling, self.synchronise = SamplingRun(self.trainer), synchroniser(self.device)

    def settings(self) -> dict[str, Any]:
        """What was timed."""
        model = self.trainer.model
        return {
            "batch_size": self.trainer.batch_size,
            "space": list(model.process.layout.space),
            "parameters": sum(p.numel() for p in model.parameters()),
            "backbone_parameters": sum(p.numel() for p in model.backbone.parameters()),
            "precision": self.trainer.options.precision,
            "sampling_steps": SAMPLING_STEPS,
        }

    def figures(self, rounds: int, progress: Progress) -> dict[str, Any]:
        """All times and what follows from them, but for the variants."""
        peaks = _peaks(self.device)
        seconds = self._seconds(peaks, rounds, progress)
        parts = parts_of_step(self.step, rounds, self.synchronise, progress("parts of a training step", rounds))
        counted = {
            TRAINING: flops_of(self.step),
            BARE_TRAINING: flops_of(self.bare.training_step),
            BARE_SAMPLING: flops_of(self.bare.sampling_steps) // SAMPLING_STEPS,
        }
        return {
            "seconds": {name: to_json(one) for name, one in seconds.items()},
            "ratios": {
                "training": to_json(seconds[TRAINING].over(seconds[BARE_TRAINING])),
                "sampling": to_json(seconds[SAMPLING].over(seconds[BARE_SAMPLING])),
                "loading": to_json(seconds[LOADER].over(seconds[TRAINING])),
            },
            "images_per_second": self._throughput(seconds),
            "parts": _shares(parts),
            "flops": counted,
            "peaks": {peak.subject.name: to_json(seconds[peak.subject.name].inverse(peak.flops)) for peak in peaks},
            "share_of_peak": _shares_of_peak(seconds, counted, peaks, self.trainer.options.precision),
        }

    def _seconds(self, peaks: Sequence[Peak], rounds: int, progress: Progress) -> dict[str, Measured]:
        subjects = [
            Subject(name=BARE_TRAINING, run=self.bare.training_step),
            Subject(name=TRAINING, run=self.step),
            Subject(name=BARE_SAMPLING, run=self.bare.sampling_steps, units=SAMPLING_STEPS),
            Subject(name=SAMPLING, run=self.sampling, units=SAMPLING_STEPS),
            Subject(name=LOADER, run=lambda: next(self.batches)),
            *(peak.subject for peak in peaks),
        ]
        return interleaved(subjects, rounds, self.synchronise, progress("training and sampling", rounds))

    def _throughput(self, seconds: Mapping[str, Measured]) -> dict[str, Any]:
        """Images in a second: trained on, loaded, and sampled in as many steps as the recipe takes."""
        size, steps = self.trainer.batch_size, self.trainer.experiment.recipe.sample.steps
        return {
            "training": to_json(seconds[TRAINING].inverse(size)),
            "loading": to_json(seconds[LOADER].inverse(size)),
            "sampling": to_json(seconds[SAMPLING].inverse(size / steps)),
        }


def _attention_flops(*shapes: Any, **_: Any) -> int:
    return int(sdpa_flop_count(*shapes[:3]))  # type: ignore[no-untyped-call]


def _attention_backward_flops(*shapes: Any, **_: Any) -> int:
    return int(sdpa_backward_flop_count(*shapes[:4]))  # type: ignore[no-untyped-call]


# torch counts attention on other devices only.
ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call, by torch's own counter."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        run()
    return int(counter.get_total_flops())


def _peaks(device: torch.device) -> list[Peak]:
    sizes = Sizes.of(device)
    dtypes = (torch.float32, torch.bfloat16)
    return [measure(device, dtype, sizes) for measure in (matmul_peak, convolution_peak) for dtype in dtypes]


def _shares(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """Each part's seconds, and its share of all of them."""
    whole = Measured(each=[sum(row) for row in zip(*(part.each for part in parts.values()), strict=True)])
    return {name: {"seconds": to_json(part), "share": to_json(part.over(whole))} for name, part in parts.items()}


def _shares_of_peak(
    seconds: Mapping[str, Measured], counted: Mapping[str, int], peaks: Sequence[Peak], precision: str
) -> dict[str, Any]:
    """The bare network's rate in parts of each peak; sampling is in fp32 whatever training is in."""
    found: dict[str, Any] = {}
    for name, dtype in ((BARE_TRAINING, "bfloat16" if precision == "bf16" else "float32"), (BARE_SAMPLING, "float32")):
        rate = seconds[name].inverse(counted[name])
        of_dtype = [peak for peak in peaks if peak.subject.name.endswith(dtype)]
        found[name] = {
            peak.subject.name: to_json(rate.over(seconds[peak.subject.name].inverse(peak.flops))) for peak in of_dtype
        }
    return found
