"""A checked recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

from mtdiff_core.directions import Direction, direction, parse_direction
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import options_of
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

if TYPE_CHECKING:
    from mtdiff_core.interfaces.aggregator import Aggregator
    from mtdiff_core.interfaces.backbone import Backbone
    from mtdiff_core.interfaces.dataset import DatasetSource
    from mtdiff_core.interfaces.modality import Modality
    from mtdiff_core.schedule import NoiseSchedule


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
                    hint=f'give modalities.{name} a curve other than "none", set diffusion.conditioning = "observe", '
                    "or leave this direction out",
                )

    def check_guidance(self, asked: Direction, guidance: float, guide: str) -> None:
        """Raise ``UserError`` if guidance is asked for that could not do anything in this direction."""
        if guidance and not asked.known:
            raise UserError("guidance follows what is known, and nothing is given")
        if guidance and self.space.anchor in asked.known:
            raise UserError(f"guidance pulls on the anchor, {self.space.anchor!r}, which is given itself")
        if guidance and guide == "context" and not any(map(self.diffusion.tells, asked.known)):
            raise UserError(
                f"guidance by context needs a network that is told {' or '.join(asked.known)}",
                hint='train with diffusion.conditioning = "observe", or let the decoders guide',
            )

    def _reaches_network(self, name: str) -> bool:
        if self.diffusion.tells(name) or name == self.space.anchor:
            return True
        return self.aggregator.carries(self.modalities[name].aggregation)

    def to_tables(self, lasting: bool = False) -> dict[str, Any]:
        """The recipe as nested tables with every default written out.

        Args:
            lasting: Leave out what may change while a run goes on.
        """

        def as_table(*instances: Any) -> dict[str, Any]:
            return _as_table(*instances, lasting=lasting)

        return {
            **as_table(self.head),
            "data": as_table(self.data, self.dataset),
            "space": as_table(self.space, self.aggregator),
            "modalities": {
                name: as_table(entry.options, entry.aggregation, entry.modality)
                for name, entry in self.modalities.items()
            },
            "backbone": as_table(self.backbone_options, self.backbone),
            "diffusion": as_table(self.diffusion, self.schedule),
            "train": as_table(self.train),
            "sample": as_table(self.sample),
        }

    def to_toml(self) -> str:
        """The recipe as TOML with every default written out; reading it gives an equal recipe."""
        return tomli_w.dumps(self.to_tables())


def _as_table(*instances: Any, lasting: bool = False) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for instance in instances:
        for name, info in options_of(type(instance)).items() if instance is not None else ():
            value = getattr(instance, name)
            # TOML has no word for "nothing": the key is left out
            if value is not None and not (lasting and info.may_change):
                table[name] = list(value) if isinstance(value, tuple) else value
    return table
