"""The same initial weights for every recipe of a comparison, as far as networks share them with the first one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core.assembly import assemble, fit_modalities, open_training_data
from mtdiff_core.errors import UserError
from mtdiff_core.files import read_weights, tensor_file, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mtdiff_core.comparison.plan import Plan
    from mtdiff_core.interfaces.workshop import Workshop


def initial_weights(plan: Plan, seed: int, workshop: Workshop) -> dict[str, Tensor]:
    """The weights that all runs with a seed start from, by name.

    The first recipe of the comparison draws them, so what it has not is drawn by each of the others for itself. They
    are kept in ``initial-SEED.safetensors``, so that recipes which join later, or are named first then, start from the
    same.

    Args:
        plan: The comparison.
        seed: Of the runs.
        workshop: Of that seed.

    Raises:
        UserError: The file is damaged, or is missing where runs began without it; or the data cannot be read.
    """
    file = plan.folder / f"initial-{seed}.safetensors"
    if not file.exists():
        _draw(plan, seed, workshop, file)
    try:
        return read_weights(file)
    except UserError as error:
        hint = "the runs of this seed started from it: compare in another folder"
        raise UserError("is damaged", str(file), hint) from error


def _draw(plan: Plan, seed: int, workshop: Workshop, file: Path) -> None:
    of_this_seed = [entry for entry in plan.entries() if entry.seed == seed]
    for entry in of_this_seed:
        if (entry.folder / "recipe.toml").exists():
            raise UserError(
                f"began from other weights than those that are missing now: {file.name}",
                str(entry.folder),
                "compare in another folder, --out",
            )
    first = of_this_seed[0]
    samples = open_training_data(first.recipe)
    model = assemble(first.recipe, samples.fields, fit_modalities(first.recipe, samples, workshop)).model
    drawn = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    write_atomically(file, tensor_file(drawn, {"drawn_by": first.label, "seed": seed}))
