"""The only place where a recipe becomes objects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import cattrs
import torch
from torch import Tensor, nn

from mtdiff_core.data.batches import Source, bind
from mtdiff_core.data.derived import with_derived
from mtdiff_core.data.fields import check_fields, check_sample
from mtdiff_core.diffusion.forward import ForwardProcess
from mtdiff_core.diffusion.model import MultiModalDiffusion
from mtdiff_core.diffusion.objective import MultiModalELBO
from mtdiff_core.diffusion.trial import try_codecs
from mtdiff_core.errors import MissingSplitError, UserError, located
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.interfaces.modality import Modality
from mtdiff_core.randomness import global_stream
from mtdiff_core.registry.plugin import PluginError
from mtdiff_core.registry.results import in_name_of, maker_of

if TYPE_CHECKING:
    from mtdiff_core.interfaces.dataset import Samples, Split
    from mtdiff_core.interfaces.workshop import Workshop
    from mtdiff_core.recipe.recipe import Recipe


@attrs.frozen(kw_only=True)
class Experiment:
    """A recipe, assembled.

    Attributes:
        recipe: The recipe.
        fields: What the data set's fields hold.
        sources: The modalities, bound, and the fields that they read.
        model: The joint model, with its initial weights.
        objective: Its training objective.
    """

    recipe: Recipe
    fields: Mapping[str, FieldSpec]
    sources: Mapping[str, Source]
    model: MultiModalDiffusion
    objective: MultiModalELBO


def open_training_data(recipe: Recipe) -> Samples:
    """The training split; its first samples, where training reads it as a stream.

    Raises:
        UserError: It cannot be read, or not as a stream, for what the recipe asks for, or is not what it says it is.
    """
    if recipe.dataset.stream("train") is not None:
        _check_can_stream(recipe)
    samples = recipe.dataset.open("train")
    check_fields(samples.fields, recipe.dataset)
    if not len(samples):
        raise UserError(f"{maker_of(recipe.dataset)}: the training split has no samples", "data")
    check_sample(samples[0], samples.fields, type(recipe.dataset))
    return samples


def _check_can_stream(recipe: Recipe) -> None:
    """Raise ``UserError`` if something has to see all samples before the first batch."""
    hint = "a stream is read once, in its order: take the data set itself, or leave this out"
    for name, entry in recipe.modalities.items():
        if type(entry.modality).derive is not Modality.derive:
            what = f"{entry.options.type!r} has to see every sample before training, which a stream cannot show it"
            raise UserError(what, f"modalities.{name}.type", hint)
    if recipe.data.complete_share:
        raise UserError("which samples of a stream lack nothing is not known", "data.complete_share", hint)


def open_held_out_data(recipe: Recipe, training: Samples) -> Samples:
    """The test split, or the training split itself where there is no other."""
    try:
        return recipe.dataset.open("test")
    except MissingSplitError:
        return training


def fit_modalities(recipe: Recipe, samples: Samples, workshop: Workshop) -> dict[str, Mapping[str, Tensor]]:
    """What each modality learns from the training split (``Modality.fit``), by modality.

    Raises:
        UserError: A modality cannot read or learn from this data; the message names it.
    """
    sources = _bound(recipe, samples.fields)
    states = {}
    for name, source in sources.items():
        with located(f"modalities.{name}"):
            states[name] = source.modality.fit(samples, source.field, workshop)
        with in_name_of(source.modality, f"modalities.{name}"):
            _check_state(states[name])
    return states


def _check_state(state: object) -> None:
    """Raise ``PluginError`` unless what a modality has learnt can be saved."""
    if not isinstance(state, Mapping):
        raise PluginError(f"fit must give a dict of names and tensors, and gives {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise PluginError(f"fit must give a dict of names and tensors, and its {name!r} is {type(value).__name__}")


def _bound(
    recipe: Recipe, fields: Mapping[str, FieldSpec], states: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})
) -> dict[str, Source]:
    """What each modality reads, bound to it."""
    check_fields(fields, recipe.dataset)
    return {
        name: attrs.evolve(
            bind(entry.modality, name, entry.options.field, fields, states.get(name)), dataset=type(recipe.dataset)
        )
        for name, entry in recipe.modalities.items()
    }


def open_split_again(experiment: Experiment, workshop: Workshop, split: Split) -> tuple[Samples, dict[str, Source]]:
    """A split of the data set that an experiment was assembled for, after its training, and what reads its fields.

    Raises:
        MissingSplitError: The data has no such split.
        UserError: It cannot be read, is no longer what it was, or a modality cannot derive its values for it.
    """
    samples = experiment.recipe.dataset.open(split)
    check_unchanged(experiment.recipe, experiment.fields, samples, "give values from files instead, such as NAME=PATH")
    return with_derived(samples, experiment.sources, workshop)


def check_unchanged(recipe: Recipe, trained_on: Mapping[str, FieldSpec], samples: Samples, hint: str) -> None:
    """Raise ``UserError`` if what a recipe's modalities read is no longer what it was in training.

    Args:
        recipe: The recipe.
        trained_on: What the fields held then.
        samples: A split, as it is now.
        hint: What to do.
    """
    for field in {entry.options.field for entry in recipe.modalities.values()}:
        was, now = trained_on.get(field), samples.fields.get(field)
        if now != was:
            what = f"the data has changed since it was trained on: its field {field!r} held {was}, and now {now}"
            raise UserError(what, "data", hint)


# Noise levels, in [0, 1]: what hides all but a trace, and what leaves but a trace
COVERED, NEARLY_ALL = 0.95, 0.9


def assemble(
    recipe: Recipe, fields: Mapping[str, FieldSpec], states: Mapping[str, Mapping[str, Tensor]] | None = None
) -> Experiment:
    """Bind the modalities to a data set's fields and build the model.

    Args:
        recipe: The recipe.
        fields: What the data set's fields hold.
        states: What :func:`fit_modalities` gave; None where no modality has to learn.

    Raises:
        UserError: The parts do not fit each other; the message names the key to change.
    """
    for name in recipe.modalities:
        if hasattr(nn.ModuleDict, name):  # encoders and decoders are kept by this name
            raise UserError(f"torch keeps the name {name!r} to itself", f"modalities.{name}", "choose another name")
    sources = _bound(recipe, fields, states or {})
    modalities = {name: source.modality for name, source in sources.items()}
    anchor = recipe.space.anchor
    layout = recipe.aggregator.layout(
        anchor,
        modalities[anchor].anchor_shape(),
        {name: modality.block_channels() for name, modality in modalities.items() if name != anchor},
    )
    process = ForwardProcess(
        schedule=recipe.schedule,
        aggregator=recipe.aggregator,
        layout=layout,
        anchor=anchor,
        options={name: entry.aggregation for name, entry in recipe.modalities.items() if name != anchor},
    )
    _check_ends(process, recipe.diffusion.steps)
    with global_stream(recipe.seed, "weights"):
        model = MultiModalDiffusion(
            modalities,
            process,
            recipe.backbone,
            observes=recipe.diffusion.conditioning == "observe",
            told=[name for name in modalities if recipe.diffusion.tells(name)],
            reveal=[n for n, source in sources.items() if n != anchor and source.field == sources[anchor].field],
        )
    try_codecs(model, modalities, recipe.backbone.feature_shapes(layout.space))
    objective = MultiModalELBO(
        model=model, weights={name: entry.options.weight for name, entry in recipe.modalities.items()}
    )
    return Experiment(recipe=recipe, fields=dict(fields), sources=sources, model=model, objective=objective)


def _check_ends(process: ForwardProcess, steps: int) -> None:
    """Raise ``UserError`` for a modality that is not noise where samples begin, or is nearly so where they end.

    Args:
        process: The forward process.
        steps: T of training.
    """
    ends = process.level(torch.tensor([1.0, 1 / steps], dtype=torch.float64))
    noise = {name: ends.sigma[:, process.layout.channels(name)].mean(dim=(1, 2, 3)) for name in process.layout.slots}
    first, last = noise[process.anchor].tolist()
    for name, own in noise.items():
        begins, is_left = own.tolist()
        where, range_ = f"modalities.{name}", f"as the noise of {process.anchor!r} goes from {first:.2g} to {last:.2g}"
        if begins < COVERED <= first:
            what = f"its noise is {begins:.2g} at most, {range_}: samples could not begin from noise alone"
            raise UserError(what, where, "a smaller log_snr_shift, or a schedule that ends lower, such as cosine")
        if is_left > NEARLY_ALL >= last:
            what = f"its noise is {is_left:.2g} at least, {range_}: it would not be generated"
            raise UserError(what, where, "a log_snr_shift nearer to 0")


def fields_to_json(fields: Mapping[str, FieldSpec]) -> dict[str, Any]:
    """Fields as JSON data, to be kept with a model, so that it can be used without its data."""
    return {name: cattrs.unstructure(spec) for name, spec in fields.items()}


def fields_from_json(data: Mapping[str, Any]) -> dict[str, FieldSpec]:
    """Undo :func:`fields_to_json`."""
    return {name: cattrs.structure(spec, FieldSpec) for name, spec in data.items()}


def states_to_tensors(sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """What the modalities have learnt as ``"modality/name"`` tensors, to be kept with a model."""
    return {f"{name}/{key}": x for name, source in sources.items() for key, x in source.modality.state.items()}


def states_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """Undo :func:`states_to_tensors`."""
    states: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.partition("/")  # a modality's name holds no slash
        states.setdefault(name, {})[key] = tensor
    return dict(states)
