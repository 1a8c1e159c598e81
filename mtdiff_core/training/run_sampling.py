"""The samples that belong to a run: previews while it trains, and those that its recipe asks for at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mtdiff_core.data.batches import batch_of_rows, spread_rows
from mtdiff_core.generation import Generated, Settings, generate, save_samples
from mtdiff_core.picture import draw_grid
from mtdiff_core.world import ALONE

if TYPE_CHECKING:
    from mtdiff_core.assembly import Experiment
    from mtdiff_core.data.batches import Batch
    from mtdiff_core.diffusion.model import MultiModalDiffusion
    from mtdiff_core.directions import Direction
    from mtdiff_core.interfaces.dataset import Samples
    from mtdiff_core.training.run_directory import RunDirectory
    from mtdiff_core.world import World

log = logging.getLogger(__name__)

PREVIEW_SAMPLES = 8
# How samples are shown while they are made: a title and the number of steps, giving what is called at each step.
SamplingProgress = Callable[[str, int], Callable[[int], None]]


class RunSampling:
    """Draws the samples that belong to a run.

    Args:
        experiment: What is trained.
        splits: Where known values come from: the first of them that has any, held-out samples before others.
        directory: Where the samples go.
        world: The processes that make them together; all of them have to call what draws.
    """

    def __init__(
        self, experiment: Experiment, splits: Sequence[Samples], directory: RunDirectory, world: World = ALONE
    ) -> None:
        self.world = world
        self.recipe, self.sources, self.directory = experiment.recipe, experiment.sources, directory
        self.modalities = {name: source.modality for name, source in experiment.sources.items()}
        self.settings = Settings.of(self.recipe.sample, self.recipe.diffusion, seed=self.recipe.seed)
        self._splits, self._found = splits, dict[tuple[int, tuple[str, ...], int], list[int]]()

    def draw_preview(self, model: MultiModalDiffusion, step: int) -> Path:
        """A few samples in each direction, while training goes on."""
        parts = self._generate(model, PREVIEW_SAMPLES, lambda _title, _steps: lambda _n: None)
        if self.world.is_main:
            self._warn_if_constant(parts, step)
        return self._draw(parts)

    def finish(self, model: MultiModalDiffusion, progress: SamplingProgress) -> Path:
        """The samples that the recipe asks for: picture and file."""
        parts = self._generate(model, self.recipe.sample.num, progress)
        if self.world.is_main:
            save_samples(self.directory.samples / "samples.safetensors", parts, self.modalities, self.settings)
        return self._draw(parts)

    def plan(self) -> str:
        """What :meth:`finish` draws, in words."""
        num, directions = self.recipe.sample.num, len(self.recipe.directions())
        return f"up to {num} samples in each of {directions} directions" if directions > 1 else f"{num} samples"

    def _generate(self, model: MultiModalDiffusion, most: int, progress: SamplingProgress) -> list[Generated]:
        """So many samples in each direction, or where something is known, as many as know different things."""
        model.eval()
        parts = []
        for direction in self.recipe.directions():
            given = self._given(direction, most)
            if direction.known and given is None:
                if self.world.is_main:
                    log.warning("no sample has %s: %s is not drawn", " and ".join(direction.known), direction)
                continue
            count = most if given is None else len(given)
            show = progress(str(direction), self.settings.steps * -(-count // self.settings.batch_size))
            known = given.values if given else {}
            part = generate(model, self.modalities, direction, known, count, self.settings, show, self._helpers())
            parts.append(attrs.evolve(part, truth=given.only(direction.generated) if given else None))
        return parts

    def _given(self, direction: Direction, most: int) -> Batch | None:
        """Samples that have what is known, first of all those that lack nothing; None if nothing is, or none has it."""
        for split, samples in enumerate(self._splits if direction.known else ()):
            rows = self._rows(split, tuple(self.sources), most)
            if len(rows) < most:
                others = [row for row in self._rows(split, direction.known, most) if row not in rows]
                rows = sorted(rows + others[: most - len(rows)])
            if rows:
                return batch_of_rows(samples, self.sources, rows, self.recipe.seed)
        return None

    def _rows(self, split: int, names: tuple[str, ...], most: int) -> list[int]:
        """Samples of a split that have all of these, at most so many; looked for once."""
        key = split, names, most
        if key not in self._found:
            fields = {self.sources[name].field for name in names}
            self._found[key] = spread_rows(self._splits[split], fields, most)
        return self._found[key]

    def _draw(self, parts: Sequence[Generated]) -> Path:
        path = self.directory.samples / "grid.png"
        if self.world.is_main:
            draw_grid(parts, self.modalities, path)
        return path

    def _helpers(self) -> World:
        """Those that share out batches: none where each has but a part of the network and all need all of them."""
        return ALONE if self.recipe.train.parallel == "fsdp2" else self.world

    def _warn_if_constant(self, parts: Sequence[Generated], step: int) -> None:
        anchor = self.recipe.space.anchor
        for part in parts:
            if anchor in part.direction.generated and float(part.values[anchor].float().std(dim=0).max()) < 1e-3:
                log.warning("samples of %r are all alike after step %d (%s)", anchor, step, part.direction)
