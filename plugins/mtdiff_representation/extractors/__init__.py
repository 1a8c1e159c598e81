"""Where features come from: one extractor a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_representation.extractors.extractor import Extractor as Extractor
from mtdiff_representation.extractors.precomputed import Precomputed
from mtdiff_representation.extractors.self_trained import SelfTrained
from mtdiff_representation.extractors.timm_network import TimmNetwork
from mtdiff_representation.extractors.torchvision_network import TorchvisionNetwork

if TYPE_CHECKING:
    from mtdiff_representation.modality import Representation

EXTRACTORS: dict[str, type[Extractor]] = {
    "self-trained": SelfTrained,
    "torchvision": TorchvisionNetwork,
    "timm": TimmNetwork,
    "precomputed": Precomputed,
}


def make_extractor(options: Representation) -> Extractor:
    """The extractor that a modality's options describe."""
    return EXTRACTORS[options.extractor](options)
