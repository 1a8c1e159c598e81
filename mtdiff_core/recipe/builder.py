"""Nested tables into a recipe; every problem on the way is kept, and all are reported together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.recipe.recipe import ModalityEntry, Recipe
from mtdiff_core.recipe.sections import (
    BackboneOptions,
    DataOptions,
    DiffusionOptions,
    HeadOptions,
    ModalityOptions,
    SampleOptions,
    SpaceOptions,
    TrainOptions,
)
from mtdiff_core.recipe.values import CONVERTER
from mtdiff_core.suggest import did_you_mean

if TYPE_CHECKING:
    from mtdiff_core.registry.registry import Registry

T = TypeVar("T")

# A recipe's name is a folder; a modality's stands in directions ("a + b -> c"), options (--given a=1) and weights.
RECIPE_NAME = re.compile(r"\w[\w.+-]*")
MODALITY_NAME = re.compile(r"(?!joint$)\w[\w-]*")


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
    builder.refuse_problems(where)
    assert recipe is not None, "a section that could not be made is a problem"
    try:
        recipe.directions()
    except UserError as error:
        raise UserError(f"sample.directions: {error}", where) from error
    return recipe


def read_component(table: Mapping[str, Any], path: str, cls: type[T], registry: Registry, where: str) -> T:
    """One component from the keys of a table.

    Args:
        table: As read from TOML.
        path: What its keys stand under, for messages.
        cls: The component's class.
        registry: All components.
        where: The file or option, for messages.

    Raises:
        UserError: Everything that is wrong, each with its key path.
    """
    builder = _Builder(registry)
    (instance,) = builder.read(table, path, cls)
    builder.refuse_problems(where)
    return cast("T", instance)


class _Builder:
    """Reads sections one by one and keeps every problem found on the way."""

    SECTIONS = ("data", "space", "modalities", "backbone", "diffusion", "train", "sample")

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.problems: list[str] = []

    def refuse_problems(self, where: str) -> None:
        """Raise ``UserError`` if any were found."""
        if self.problems:
            count = len(self.problems)
            first = f"{count} problems" if count > 1 else self.problems[0]
            raise UserError(first, where, "\n  ".join(self.problems) if count > 1 else "")

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
        self.across_conditioning(modalities, diffusion, sample)
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
                values[name] = CONVERTER.structure(table[name], info.type)
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
        for name in data.keep:
            if name not in modalities:
                self.problems.append(
                    f"data.keep.{name}: no modality is called so; {did_you_mean(name, list(modalities))}"
                )
        if len(train.betas) != 2:
            self.problems.append(f"train.betas: needs two numbers, not {len(train.betas)}")

    def across_conditioning(self, modalities: Mapping[str, ModalityEntry], diffusion: Any, sample: Any) -> None:
        """What must hold between training and sampling for what is known."""
        if self.problems:
            return
        if diffusion.conditioning == "observe" and len(modalities) < 2:
            self.problems.append("diffusion.conditioning: 'observe' needs a second modality that could be known")
        for name in diffusion.observe:
            if name not in modalities:
                hint = did_you_mean(name, list(modalities))
                self.problems.append(f"diffusion.observe: no modality is called {name!r}; {hint}")
        if sample.guide == "context" and diffusion.conditioning != "observe":
            self.problems.append('sample.guide: "context" needs diffusion.conditioning = "observe"')


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
