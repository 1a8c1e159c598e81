"""Everything that is measured of a recipe on one machine, as JSON data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

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
        sizes: Of the kernels that set the peaks; by default as the device needs them.
    """

    rounds: int
    compiled: bool
    sizes: Sizes | None = None


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
    trainer, synchronise = opened.trainer(), synchroniser(device)
    batches = iter(trainer.loader)
    batch = next(batches).to(device)
    step, bare, sampling = TrainingStep(trainer, batch), BareNetwork(trainer, batch), SamplingRun(trainer)
    memory = {"training": peak_memory(step, device), "sampling": peak_memory(sampling, device)}
    counted = {
        TRAINING: flops_of(step),
        BARE_TRAINING: flops_of(bare.training_step),
        BARE_SAMPLING: flops_of(bare.sampling_steps) // SAMPLING_STEPS,
    }
    peaks = _peaks(device, options.sizes or Sizes.of(device))
    rounds = options.rounds
    seconds = interleaved(
        [
            Subject(name=BARE_TRAINING, run=bare.training_step),
            Subject(name=TRAINING, run=step),
            Subject(name=BARE_SAMPLING, run=bare.sampling_steps, units=SAMPLING_STEPS),
            Subject(name=SAMPLING, run=sampling, units=SAMPLING_STEPS),
            Subject(name=LOADER, run=lambda: next(batches)),
            *(peak.subject for peak in peaks),
        ],
        rounds,
        synchronise,
        progress("training and sampling", rounds),
    )
    parts = parts_of_step(step, rounds, synchronise, progress("parts of a training step", rounds))
    variants = [variant for variant in VARIANTS if options.compiled or not variant.options.get("compile")]
    advance = progress("bf16, channels_last" + (", compile" if options.compiled else ""), len(variants) + rounds)
    return {
        "recipe": recipe.to_tables(),
        "environment": environment(recipe.seed, registry, device),
        "settings": {
            "rounds": rounds,
            "batch_size": trainer.batch_size,
            "space": list(trainer.model.process.layout.space),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "backbone_parameters": sum(p.numel() for p in trainer.model.backbone.parameters()),
            "precision": trainer.options.precision,
            "sampling_steps": SAMPLING_STEPS,
        },
        "seconds": {name: to_json(one) for name, one in seconds.items()},
        "ratios": {
            "training": to_json(seconds[TRAINING].over(seconds[BARE_TRAINING])),
            "sampling": to_json(seconds[SAMPLING].over(seconds[BARE_SAMPLING])),
            "loading": to_json(seconds[LOADER].over(seconds[TRAINING])),
        },
        "images_per_second": _throughput(seconds, trainer.batch_size, recipe.sample.steps),
        "parts": _shares(parts),
        "flops": counted,
        "peaks": {peak.subject.name: to_json(seconds[peak.subject.name].inverse(peak.flops)) for peak in peaks},
        "share_of_peak": _shares_of_peak(seconds, counted, peaks, trainer.options.precision),
        "peak_memory": memory,
        "variants": variants_json(opened, batch, variants, rounds, synchronise, advance),
    }


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _peaks(device: torch.device, sizes: Sizes) -> list[Peak]:
    dtypes = (torch.float32, torch.bfloat16)
    return [measure(device, dtype, sizes) for measure in (matmul_peak, convolution_peak) for dtype in dtypes]


def _throughput(seconds: Mapping[str, Measured], batch_size: int, sampling_steps: int) -> dict[str, Any]:
    """Images in a second: trained on, loaded, and sampled in as many steps as the recipe takes."""
    return {
        "training": to_json(seconds[TRAINING].inverse(batch_size)),
        "loading": to_json(seconds[LOADER].inverse(batch_size)),
        "sampling": to_json(seconds[SAMPLING].inverse(batch_size / sampling_steps)),
    }


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
