"""Recipes: TOML into checked objects, with every problem named by file and key, all at once.

A recipe's sections hold the options below, and beside them the options of the component that the section names
(``[data] dataset``, ``[space] aggregator``, ...). Component options come from the component's own class and
nowhere else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import cattrs
import tomli_w

from mtdiff_core.directions import Direction, direction, parse_direction
from mtdiff_core.errors import UserError
from mtdiff_core.files import read_text
from mtdiff_core.interfaces.component import component, option, options_of
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.interfaces.aggregator import Aggregator
    from mtdiff_core.interfaces.backbone import Backbone
    from mtdiff_core.interfaces.dataset import DatasetSource
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.registry.registry import Registry
    from mtdiff_core.schedule import NoiseSchedule

# A recipe's name is a folder; a modality's stands in directions ("a + b -> c"), options (--given a=1) and weights.
RECIPE_NAME = re.compile(r"\w[\w.+-]*")
MODALITY_NAME = re.compile(r"(?!joint$)\w[\w-]*")

# The keys of mtdiff_core.diffusion.sampling.SAMPLERS, here so that recipes are checked without importing torch.
SAMPLERS = ("ancestral", "ddim")


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
    workers: int = option(0, help="processes that load data; 0 loads in the main process", minimum=0, maximum=256)


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
    steps: int = option(1000, help="T: training draws its times from 1/T, 2/T, ..., 1", minimum=1)


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
    precision: str = option("fp32", help="bf16 computes the network under autocast", choices=("fp32", "bf16"))
    compile: bool = option(False, help="compile the training step with torch.compile (needs a C compiler)")
    max_skipped: int = option(20, help="non-finite steps in a row after which the run stops", minimum=1)
    log_every: int = option(10, help="steps between two logged lines", minimum=1)
    grid_every: int = option(
        500, help="steps between two pictures of samples, besides one at step 100; 0 for none", minimum=0
    )
    checkpoint_every: int = option(500, help="steps between two checkpoints", minimum=1)
    keep_checkpoints: int = option(3, help="newest checkpoints that are kept", minimum=1)


@component
class SampleOptions:
    """``[sample]``: what is sampled after training, and the defaults of ``mtdiff sample``."""

    steps: int = option(50, help="sampling steps", minimum=1, maximum=100_000)
    sampler: str = option("ancestral", help="ancestral (stochastic) or ddim (deterministic)", choices=SAMPLERS)
    num: int = option(64, help="samples in each direction", minimum=1)
    batch_size: int = option(256, help="samples computed at a time", minimum=1)
    directions: tuple[str, ...] = option(
        (), help='such as "joint" or "label -> image"; if empty, joint and from each modality alone'
    )


@attrs.frozen(kw_only=True)
class ModalityEntry:
    """One modality of a recipe: its common options, the aggregator's options for it (None for the anchor), itself."""

    options: ModalityOptions
    aggregation: Any
    modality: Modality


@attrs.frozen(kw_only=True)
class Recipe:
    """A checked recipe: options and component instances, ready to be assembled."""

    head: HeadOptions
    data: DataOptions
    dataset: DatasetSource
    space: SpaceOptions
    aggregator: Aggregator
    modalities: Mapping[str, ModalityEntry]
    backbone_options: BackboneOptions
    backbone: Backbone
    diffusion: DiffusionOptions
    schedule: NoiseSchedule
    train: TrainOptions
    sample: SampleOptions

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.head.name

    @property
    def seed(self) -> int:
        """The one seed."""
        return self.head.seed

    def directions(self) -> list[Direction]:
        """The directions to sample in: those of ``[sample] directions``, or all that start from one modality at most.

        Raises:
            UserError: A direction that is asked for cannot work.
        """
        names = list(self.modalities)
        if self.sample.directions:
            asked = [parse_direction(text, names) for text in self.sample.directions]
            for one in asked:
                self.check_direction(one)
            return asked
        single = [direction([name], names) for name in names if len(names) > 1 and self._reaches_network(name)]
        return [direction([], names), *single]

    def check_direction(self, asked: Direction) -> None:
        """Raise ``UserError`` if the network would never see a modality that is said to be known."""
        for name in asked.known:
            if not self._reaches_network(name):
                entry = self.modalities[name]
                setting = ", ".join(f"{key} = {value!r}" for key, value in _as_table(entry.aggregation).items())
                raise UserError(
                    f"'{asked}' cannot work: {name!r} is not aggregated ({setting}), so z_t does not carry it, and the "
                    "network would never see what is given",
                    hint=f'give modalities.{name} a curve other than "none", or leave this direction out',
                )

    def _reaches_network(self, name: str) -> bool:
        return name == self.space.anchor or self.aggregator.carries(self.modalities[name].aggregation)

    def to_tables(self) -> dict[str, Any]:
        """The recipe as nested tables with every default written out."""
        return {
            **_as_table(self.head),
            "data": _as_table(self.data, self.dataset),
            "space": _as_table(self.space, self.aggregator),
            "modalities": {
                name: _as_table(entry.options, entry.aggregation, entry.modality)
                for name, entry in self.modalities.items()
            },
            "backbone": _as_table(self.backbone_options, self.backbone),
            "diffusion": _as_table(self.diffusion, self.schedule),
            "train": _as_table(self.train),
            "sample": _as_table(self.sample),
        }

    def to_toml(self) -> str:
        """The recipe as TOML with every default written out; reading it gives an equal recipe."""
        return tomli_w.dumps(self.to_tables())


def _as_table(*instances: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for instance in instances:
        for name in options_of(type(instance)) if instance is not None else ():
            value = getattr(instance, name)
            if value is not None:  # TOML has no word for "nothing": the key is left out
                table[name] = list(value) if isinstance(value, tuple) else value
    return table


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The TOML file.
        registry: Where its components are looked up.
        overrides: ``key.path=value`` each, as after ``--set``.

    Raises:
        UserError: Everything that is wrong with it, each with its key path.
    """
    tables = read_tables(path)
    for override in overrides:
        apply_override(tables, override)
    return build_recipe(tables, registry, str(path) + (" with --set" if overrides else ""))


def read_tables(path: Path) -> dict[str, Any]:
    """The nested tables of a TOML file.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"is not valid TOML ({error})", str(path)) from error


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Set one key, ``a.b=value``. The value is read as TOML; what is not TOML is taken as text.

    Raises:
        UserError: This is no such assignment, or the path leads through a value.
    """
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise UserError(f"{override!r} is no setting", "--set", "expected key=value, such as train.steps=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = tables
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{override!r} goes through {part!r}, which is a value and no section", "--set")
    table[path[-1]] = value


def build_recipe(tables: Mapping[str, Any], registry: Registry, where: str) -> Recipe:
    """Check nested tables and look their components up.

    Args:
        tables: As read from TOML.
        registry: Where components are looked up.
        where: The file, for messages.

    Raises:
        UserError: Everything that is wrong, each with its key path.
    """
    builder = _Builder(registry)
    recipe = builder.recipe(tables)
    if recipe is None or builder.problems:
        count = len(builder.problems)
        first = f"{count} problems" if count > 1 else builder.problems[0]
        raise UserError(first, where, "\n  ".join(builder.problems) if count > 1 else "")
    try:
        recipe.directions()
    except UserError as error:
        raise UserError(f"sample.directions: {error}", where) from error
    return recipe


class _Builder:
    """Reads sections one by one and keeps every problem found on the way."""

    SECTIONS = ("data", "space", "modalities", "backbone", "diffusion", "train", "sample")

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.problems: list[str] = []

    def recipe(self, tables: Mapping[str, Any]) -> Recipe | None:
        """The recipe, or None if a section could not be made."""
        top = {key: value for key, value in tables.items() if key not in self.SECTIONS}
        (head,) = self.read(top, "", HeadOptions, also_allowed=self.SECTIONS)
        if head is not None:
            self.check_name("name", head.name, RECIPE_NAME, "letters, digits, _ - + or ., a letter or digit first")
        data, dataset = self.with_component(tables, "data", DataOptions, "dataset", "dataset")
        space, aggregator = self.with_component(tables, "space", SpaceOptions, "aggregator", "aggregator")
        backbone_options, backbone = self.with_component(tables, "backbone", BackboneOptions, "type", "backbone")
        diffusion, schedule = self.with_component(tables, "diffusion", DiffusionOptions, "schedule", "schedule")
        (train,) = self.read(self.section(tables, "train"), "train", TrainOptions)
        (sample,) = self.read(self.section(tables, "sample"), "sample", SampleOptions)
        modalities = self.modalities(self.section(tables, "modalities"), space, aggregator)
        self.across_sections(data, space, modalities, train)
        if self.problems:
            return None
        return Recipe(
            head=head, data=data, dataset=dataset, space=space, aggregator=aggregator, modalities=modalities,
            backbone_options=backbone_options, backbone=backbone, diffusion=diffusion, schedule=schedule,
            train=train, sample=sample,
        )  # fmt: skip

    def check_name(self, path: str, name: str, allowed: re.Pattern[str], words: str) -> None:
        """Note a name that does not do where names are used."""
        if not allowed.fullmatch(name):
            self.problems.append(f"{path}: {name!r} cannot be a name; it needs {words}")

    def section(self, tables: Mapping[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
        """A sub-table; empty if it is missing."""
        table = tables.get(name, {})
        if isinstance(table, dict):
            return table
        self.problems.append(f"{prefix}{name}: must be a section, not {table!r}")
        return {}

    def with_component(
        self, tables: Mapping[str, Any], section: str, own: type, key: str, kind: str
    ) -> tuple[Any, Any]:
        """A section that names a component: its own options, and the component made from the rest of its keys."""
        table = self.section(tables, section)
        cls = self.component(table, section, own, key, kind)
        if cls is None:
            return None, None
        options, instance = self.read(table, section, own, cls)
        return options, instance

    def component(self, table: Mapping[str, Any], path: str, own: type, key: str, kind: str) -> type | None:
        """The component class that a section names."""
        name = table.get(key, options_of(own)[key].default)
        if name is attrs.NOTHING:
            kinds = ", ".join(self.registry.names(kind))
            self.problems.append(f"{path}.{key}: is missing; allowed: {kinds}")
        elif not isinstance(name, str):
            self.problems.append(f"{path}.{key}: must be text, not {name!r}")
        else:
            try:
                return self.registry.get(kind, name).cls
            except UserError as error:
                self.problems.append(f"{path}.{key}: {error}")
        return None

    def modalities(self, tables: Mapping[str, Any], space: Any, aggregator: Any) -> dict[str, ModalityEntry]:
        """All modality tables."""
        entries = {}
        for name in tables:
            table, path = self.section(tables, name, "modalities."), f"modalities.{name}"
            self.check_name(path, name, MODALITY_NAME, "letters, digits, _ or -, and not to be 'joint'")
            cls = self.component(table, path, ModalityOptions, "type", "modality")
            if cls is None or space is None or aggregator is None:
                continue
            is_anchor = name == space.anchor
            extra = [] if is_anchor else [aggregator.ModalityOptions]
            options, *aggregation, modality = self.read(table, path, ModalityOptions, *extra, cls)
            if options is None or modality is None:
                continue
            options = attrs.evolve(options, field=options.field or name)
            entries[name] = ModalityEntry(
                options=options, aggregation=aggregation[0] if aggregation else None, modality=modality
            )
        return entries

    def read(self, table: Mapping[str, Any], path: str, *classes: type, also_allowed: Sequence[str] = ()) -> list[Any]:
        """One instance of each class from the keys of one table; None where that failed."""
        owners: dict[str, type] = {}
        for cls in classes:
            for name in options_of(cls):
                if name in owners:
                    self.problems.append(
                        f"{path}.{name}: is an option of both {owners[name].__name__} and {cls.__name__}"
                    )
                owners.setdefault(name, cls)
        for key in table:
            if key not in owners:
                hint = did_you_mean(key, [*owners, *also_allowed])
                self.problems.append(f"{_join(path, key)}: unknown key; {hint}")
        return [self.instance(table, path, cls) for cls in classes]

    def instance(self, table: Mapping[str, Any], path: str, cls: type) -> Any:
        """An instance of one options class, or None after noting what is wrong."""
        values, before = {}, len(self.problems)
        for name, info in options_of(cls).items():
            if name not in table:
                if info.required:
                    self.problems.append(f"{_join(path, name)}: is missing ({info.help})")
                continue
            try:
                values[name] = _CONVERTER.structure(table[name], info.type)
                info.check(values[name])
            except ValueError as error:
                self.problems.append(f"{_join(path, name)}: {error}")
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except ValueError as error:  # a check of the class's own, over several options
            self.problems.append(f"{path}: {error}")
            return None

    def across_sections(self, data: Any, space: Any, modalities: Mapping[str, ModalityEntry], train: Any) -> None:
        """What no section can know alone."""
        if self.problems:
            return  # they would only repeat, in other words, what is already known to be wrong
        anchor = modalities.get(space.anchor)
        if not modalities:
            self.problems.append("modalities: a recipe needs at least one, such as [modalities.image]")
        elif anchor is None:
            hint = did_you_mean(space.anchor, list(modalities))
            self.problems.append(f"space.anchor: no modality is called {space.anchor!r}; {hint}")
        elif not anchor.modality.one_to_one:
            able = [name for name, entry in modalities.items() if entry.modality.one_to_one]
            self.problems.append(
                f"space.anchor: {space.anchor!r} is not encoded one-to-one, so it cannot be the anchor; "
                f"those that can: {', '.join(able) or 'none in this recipe'}"
            )
        if data.batch_size % train.accumulate:
            self.problems.append(
                f"train.accumulate: {train.accumulate} does not divide data.batch_size {data.batch_size}"
            )
        if len(train.betas) != 2:
            self.problems.append(f"train.betas: needs two numbers, not {len(train.betas)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _strict(value: Any, kind: type) -> Any:
    """A value of exactly this TOML type; whole numbers also pass as numbers, nothing else is converted."""
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be {_WORDS[kind]}, not {value!r}")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # so that NaN is refused too
        raise ValueError(f"must be a finite number, not {value!r}")
    return kind(value)


def _strict_list(value: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, not {value!r}")
    return tuple(_CONVERTER.structure(entry, kind.__args__[0]) for entry in value)


_CONVERTER = cattrs.Converter(detailed_validation=False)
for _kind in _WORDS:
    _CONVERTER.register_structure_hook(_kind, _strict)
_CONVERTER.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is tuple, _strict_list)
