"""What a training step of each recipe costs, timed beside the first one's: a log would tell what else the machine did.

Letters for shapes: R rounds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mtdiff_core.assembly import states_from_tensors
from mtdiff_core.benchmark.subjects import Opened, TrainingStep
from mtdiff_core.benchmark.timing import Measured, Subject, interleaved, synchroniser, to_json
from mtdiff_core.errors import UserError
from mtdiff_core.evaluation.evaluation import strict_json
from mtdiff_core.files import read_text, write_atomically
from mtdiff_core.training.checkpoint import find_checkpoint
from mtdiff_core.training.run_directory import RunDirectory, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from mtdiff_core.comparison.plan import Entry, Plan
    from mtdiff_core.interfaces.workshop import Progress
    from mtdiff_core.registry.registry import Registry

ROUNDS = 15
FILE = "costs.json"


def step_costs(plan: Plan, registry: Registry, device: torch.device, progress: Progress) -> dict[str, Any]:
    """The seconds that a training step of each recipe takes, as JSON data.

    Each is timed in turns with the first, two networks at a time. What was timed on this machine against this first
    recipe is kept in ``costs.json`` and not timed again.

    Args:
        plan: The comparison; the runs of its first seed are finished.
        registry: Plugins.
        device: Where to run.
        progress: Shows the rounds.

    Returns:
        By recipe: ``seconds_per_step``, and ``ratio``, in steps of the first recipe, each with ``median``, ``interval``
        (95%) and the values of ``each`` round, ``(R,)``.
    """
    reference, *others = [entry for entry in plan.entries() if entry.seed == plan.seeds[0]]
    where = environment(reference.seed, registry, device)
    about = {"reference": reference.label, "hardware": where["hardware"], "versions": where["versions"]}
    kept = _kept(plan, about)
    for entry in others:
        if entry.label not in kept:
            kept[entry.label] = _pair(reference, entry, registry, device, progress)
            write_atomically(plan.folder / FILE, strict_json({**about, "pairs": kept}))
    return costs_of(reference.label, {entry.label: kept[entry.label] for entry in others})


def costs_of(reference: str, pairs: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """What :func:`step_costs` returns.

    Args:
        reference: The first recipe.
        pairs: By recipe: seconds of its step, ``own``, and of the first one's, ``reference``, round by round.
    """
    alone = Measured(each=[seconds for pair in pairs.values() for seconds in pair["reference"]])
    found = {reference: _cost(alone, alone)}
    for label, pair in pairs.items():
        found[label] = _cost(Measured(each=pair["own"]), Measured(each=pair["reference"]))
    return found


def _cost(own: Measured, reference: Measured) -> dict[str, Any]:
    return {"seconds_per_step": to_json(own), "ratio": to_json(own.over(reference))}


def _kept(plan: Plan, about: Mapping[str, Any]) -> dict[str, Any]:
    """What was timed before in the same circumstances, by recipe."""
    file = plan.folder / FILE
    if not file.exists():
        return {}
    try:
        found = json.loads(read_text(file))
        same = {key: found[key] for key in about} == about
        return dict(found["pairs"]) if same else {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("is damaged", str(file), "remove it: times are taken again") from error


def _pair(
    reference: Entry, entry: Entry, registry: Registry, device: torch.device, progress: Progress
) -> dict[str, list[float]]:
    """Both recipes' seconds for a step, round by round."""
    subjects = [
        Subject(name="reference", run=_training_step(reference, registry, device, progress)),
        Subject(name="own", run=_training_step(entry, registry, device, progress)),
    ]
    advance = progress(f"a training step of {entry.label} beside {reference.label}", ROUNDS)
    timed = interleaved(subjects, ROUNDS, synchroniser(device), advance)
    return {name: list(measured.each) for name, measured in timed.items()}


def _training_step(entry: Entry, registry: Registry, device: torch.device, progress: Progress) -> TrainingStep:
    """A step as the entry's run took it, with what its modalities learnt then."""
    checkpoint = find_checkpoint(RunDirectory(entry.folder).checkpoints)
    states = states_from_tensors(checkpoint.load("fitted")) if checkpoint else None
    opened = Opened.of(entry.recipe, registry, device, progress, states)
    trainer = opened.trainer(compile=entry.recipe.train.compile)
    return TrainingStep(trainer, next(iter(trainer.loader)))
