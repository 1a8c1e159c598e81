"""The representation: what a self-supervised network makes of a picture, as a short white vector."""

from __future__ import annotations

from mtdiff_core import Modality, hookimpl
from mtdiff_representation.modality import Representation

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_modalities() -> dict[str, type[Modality]]:
    """The representation."""
    return {"representation": Representation}
