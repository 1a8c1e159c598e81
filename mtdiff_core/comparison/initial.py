"""The same initial weights for every recipe of a comparison, as far as their networks have them in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core.assembly import assemble, fit_modalities, open_training_data
from mtdiff_core.files import read_weights, tensor_file, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.comparison.plan import Entry, Plan
    from mtdiff_core.interfaces.workshop import Workshop


def initial_weights(plan: Plan, entry: Entry, workshop: Workshop) -> dict[str, Tensor]:
    """The weights that all runs with an entry's seed start from, by name.

    The first recipe of the comparison draws them. They are kept in ``initial-SEED.safetensors``, so that recipes which
    join later, or are then named first, start from the same.

    Args:
        plan: The comparison.
        entry: One of its runs.
        workshop: Of that seed.

    Raises:
        UserError: The file is damaged, or the data cannot be read.
    """
    file = plan.folder / f"initial-{entry.seed}.safetensors"
    if not file.exists():
        first = next(one for one in plan.entries() if one.seed == entry.seed)
        samples = open_training_data(first.recipe)
        model = assemble(first.recipe, samples.fields, fit_modalities(first.recipe, samples, workshop)).model
        drawn = {name: parameter.detach() for name, parameter in model.named_parameters()}
        write_atomically(file, tensor_file(drawn, {"drawn_by": first.label, "seed": entry.seed}))
    return read_weights(file)
