"""Draw the README's pictures: a few samples of finished runs, in every direction of their recipes.

python docs/pictures/make_gallery.py RUN [RUN ...]

Each picture lies beside this script and is called like its recipe. Needs no GPU, and takes a minute for each run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import torch

from mtdiff_core.assembly import open_split_again
from mtdiff_core.cli.console import load_registry
from mtdiff_core.data.batches import batch_of_rows, spread_rows
from mtdiff_core.generation import Settings, generate
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.picture import draw_grid
from mtdiff_core.training.run import load_trained_model

SAMPLES = 24  # in all directions together


def draw(run: Path) -> Path:
    """Some held-out samples of a run's data in every direction, and as many joint samples."""
    device = torch.device("cpu")
    experiment = load_trained_model(run, load_registry(), device).experiment
    recipe = experiment.recipe
    held_out, sources = open_split_again(experiment, Workshop(device, recipe.seed), "test")
    count = min(8, SAMPLES // len(recipe.directions()))
    rows = spread_rows(held_out, {source.field for source in sources.values()}, count)
    batch = batch_of_rows(held_out, sources, rows, recipe.seed)
    modalities = {name: source.modality for name, source in experiment.sources.items()}
    settings = Settings.of(recipe.sample, recipe.diffusion, recipe.seed)
    parts = []
    for direction in recipe.directions():
        part = generate(experiment.model, modalities, direction, batch.values, count, settings)
        parts.append(attrs.evolve(part, truth=batch.only(direction.generated) if direction.known else None))
    path = Path(__file__).parent / f"{recipe.name}.png"
    draw_grid(parts, modalities, path)
    return path


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(draw(Path(argument)))
