"""Features that were computed elsewhere, in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtdiff_core import UserError
from mtdiff_core.files import user_path
from mtdiff_representation.extractors.extractor import Extractor
from mtdiff_representation.features_file import HOW, check_features, read_features

if TYPE_CHECKING:
    from mtdiff_core import Samples, Workshop


class Precomputed(Extractor):
    """Features from a file, known by the data that they were computed from."""

    def learn(self, samples: Samples, field: str, workshop: Workshop) -> dict[str, Tensor]:
        """Nothing: there is no network."""
        return {}

    def of_split(
        self, samples: Samples, field: str, state: Mapping[str, Tensor], workshop: Workshop
    ) -> tuple[Tensor, Tensor]:
        """The features whose data this is."""
        path = user_path(self.options.features)
        known = read_features(path)
        features = known.get(workshop.content_hash(samples, field))
        if features is None:
            raise UserError("holds features of other data than this recipe's", str(path), HOW)
        check_features(features, len(samples), str(path))
        if "whitening.mean" in state and features.shape[1] != len(state["whitening.mean"]):
            raise UserError(f"has {features.shape[1]} features; those of the training split differ", str(path), HOW)
        present = torch.tensor([field in samples[i] for i in range(len(samples))])
        return features.float(), present

    def of_pictures(self, pictures: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Raise ``UserError``: a file holds no network."""
        raise UserError(
            "pictures cannot be turned into precomputed features: there is no network",
            hint="train with another extractor to give pictures",
        )
