"""The options of each section of a recipe that belong to no component."""

from __future__ import annotations

import math

from mtdiff_core.interfaces.component import component, option

# The keys of mtdiff_core.diffusion.sampling.SAMPLERS, here so that recipes are checked without importing torch.
SAMPLERS = ("ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde")
GUIDES = ("decoder", "context")


@component
class HeadOptions:
    """Keys above the first section."""

    name: str = option(help="the recipe's name; runs are kept under it")
    description: str = option("", help="one sentence: what it shows")
    seed: int = option(0, help="the one seed; every random stream is derived from it", minimum=0)


@component
class DataOptions:
    """``[data]``, beside the data set's own options."""

    dataset: str = option(help="name of a data set")
    batch_size: int = option(64, help="samples in one training step", minimum=1, maximum=2**20)
    workers: int = option(
        0,
        help="processes that load data; 0 loads in the main process",
        minimum=0,
        maximum=256,
        may_change=True,
    )
    keep: dict[str, float] = option(
        factory=dict,
        help="share of the training samples that keep a modality, by its name; it is hidden in the others",
        minimum=0,
        maximum=1,
    )
    complete_share: float = option(
        0.0,
        help="share of each batch that is drawn from the samples that lack nothing, for data in which few are complete",
        minimum=0,
        maximum=1,
    )


@component
class SpaceOptions:
    """``[space]``, beside the aggregator's own options."""

    anchor: str = option(help="the modality that is encoded one-to-one into the space")
    aggregator: str = option("linear", help="how encodings are summed")


@component
class ModalityOptions:
    """``[modalities.NAME]``, beside the aggregator's options for a modality and the modality's own."""

    type: str = option(help="name of a modality")
    field: str = option("", help="field of the data set that it reads; its own name if empty")
    weight: float = option(1.0, help="lambda: weight of its loss", minimum=0)


@component
class BackboneOptions:
    """``[backbone]``, beside the backbone's own options."""

    type: str = option("unet", help="name of a backbone")


@component
class DiffusionOptions:
    """``[diffusion]``, beside the schedule's own options."""

    schedule: str = option("cosine", help="name of a noise schedule")
    steps: int = option(1000, help="T: training draws its times from 1/T, 2/T, ..., 1", minimum=2)
    conditioning: str = option(
        "replace",
        help="how the network learns of what is known: replace = from z_t alone (the paper); observe = it is told",
        choices=("replace", "observe"),
    )
    observe: tuple[str, ...] = option((), help="observe: modalities that may be known; all of them if empty")
    observe_share: float = option(
        0.25,
        help="observe: share of the training samples in which something is known; much of it costs joint quality",
        minimum=0,
        maximum=1,
    )
    observe_subsets: str = option(
        "uniform",
        help="observe: what is known then: uniform = any subset that leaves something to generate; single = one",
        choices=("uniform", "single"),
    )

    def tells(self, name: str) -> bool:
        """Whether the network is told of this modality in training, now and then."""
        return self.conditioning == "observe" and self.observe_share > 0 and name in (self.observe or (name,))


@component
class TrainOptions:
    """``[train]``."""

    steps: int = option(1500, help="optimizer steps", minimum=1)
    learning_rate: float = option(2e-3, help="peak learning rate of AdamW", minimum=0)
    warmup_steps: int = option(50, help="steps over which the learning rate rises from 0", minimum=0)
    final_learning_rate: float = option(
        0.0, help="share of the peak that the cosine decay ends at", minimum=0, maximum=1
    )
    weight_decay: float = option(0.01, help="AdamW's decoupled weight decay", minimum=0)
    betas: tuple[float, ...] = option(
        (0.9, 0.99), help="AdamW's two decay rates of the moments", minimum=0, maximum=0.99999
    )
    gradient_clip: float = option(1.0, help="largest norm of the gradient; 0 for no limit", minimum=0)
    accumulate: int = option(1, help="parts that a batch is computed in, to save memory", minimum=1)
    ema_decay: float = option(
        0.999, help="decay of the weights' moving average, after its warm-up", minimum=0, maximum=1
    )
    ema_snapshots: int = option(
        8,
        help="times at which averages are kept that others are made of after training (--ema); each takes the room of "
        "the weights for each of ema_sigma_rel; 0 for never",
        minimum=0,
    )
    ema_sigma_rel: tuple[float, ...] = option(
        (0.05, 0.1),
        help="ema_snapshots: lengths of these averages: their standard deviation as a share of training",
        minimum=0.005,
        maximum=0.28,
    )
    impute_from: int = option(
        0,
        help="step from which labels and other classes that training samples lack are filled in: with those that the "
        "averaged model finds likeliest, given the anchor, if it is sure of them; 0 for never",
        minimum=0,
    )
    impute_confidence: float = option(
        0.95,
        help="impute_from: how probable a class has to be, or a map's classes in the mean; others stay missing",
        minimum=0,
        maximum=1,
    )
    parallel: str = option(
        "ddp",
        help="how several processes share the work: ddp = each has the whole network; fsdp2 = each has a part of it",
        choices=("ddp", "fsdp2"),
        may_change=True,
    )
    precision: str = option("fp32", help="bf16 computes the network under autocast", choices=("fp32", "bf16"))
    compile: bool = option(False, help="compile the training step with torch.compile (needs a C compiler)")
    max_skipped: int = option(
        20,
        help="non-finite steps in a row after which the run goes back to the newest checkpoint and on with other "
        "batches, or, where that has not helped, stops",
        minimum=1,
    )
    log_every: int = option(10, help="steps between two logged lines", minimum=1)
    grid_every: int = option(
        500, help="steps between two pictures of samples, besides one at step 100; 0 for none", minimum=0
    )
    checkpoint_every: int = option(500, help="steps between two checkpoints", minimum=1)
    keep_checkpoints: int = option(3, help="newest checkpoints that are kept", minimum=1)
    keep_every: int = option(
        0, help="checkpoints of steps that this divides are kept besides; 0 for no others", minimum=0
    )

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay, for step 1, 2, ..., ``steps``."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)


@component
class SampleOptions:
    """``[sample]``: what is sampled after training, and the defaults of ``mtdiff sample``."""

    steps: int = option(50, help="sampling steps", minimum=1, maximum=100_000)
    sampler: str = option(
        "ancestral",
        help="ancestral or dpmpp_2m_sde (stochastic; second order), ddim or dpmpp_2m (deterministic; second order)",
        choices=SAMPLERS,
    )
    guidance: float = option(0.0, help="w: how hard what is known pulls on the anchor; 0 is none", minimum=0)
    guide: str = option(
        "decoder",
        help="what guides: decoder = the model's own heads; context = classifier-free, where the network observes",
        choices=GUIDES,
    )
    num: int = option(64, help="samples in each direction", minimum=1)
    batch_size: int = option(256, help="samples computed at a time", minimum=1)
    compile: bool = option(
        False, help="compile the backbone with torch.compile for sampling (needs a C compiler)", may_change=True
    )
    directions: tuple[str, ...] = option(
        (), help='such as "joint" or "label -> image"; if empty, joint and from each modality alone'
    )
