"""Files of precomputed features, for ``extractor = "precomputed"``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from mtdiff_core import UserError, content_hash
from mtdiff_core.files import explained, tensor_file, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core import Samples, Split

NAMES: dict[Split, str] = {"train": "representation", "test": "representation_test"}
HOW = "write it with mtdiff_representation.features_file.save_features, from the recipe's own data"


def save_features(path: Path, field: str, splits: Mapping[Split, tuple[Samples, Tensor]]) -> None:
    """Write features for ``extractor = "precomputed"``.

    Args:
        path: The safetensors file: a tensor ``representation``, and ``representation_test`` if the test split is given;
            its metadata names, as JSON under the key ``mtdiff``, the data that each belongs to.
        field: The picture field that the features are of.
        splits: For each split its samples and their features, ``(N, F)``.

    Raises:
        UserError: Features do not fit their samples, or the file cannot be written.
    """
    tensors, data = {}, {}
    for split, (samples, features) in splits.items():
        check_features(features, len(samples), f"the {split} split")
        tensors[NAMES[split]] = features.float().cpu().contiguous()
        data[NAMES[split]] = content_hash(samples, field)
    write_atomically(path, tensor_file(tensors, {"data": data}))


def read_features(path: Path) -> dict[str, Tensor]:
    """The features ``(N, F)`` of each split that the file has, by the content hash of its data.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    with explained("cannot read precomputed features", path):
        path.open("rb").close()  # safetensors' own errors do not say what is wrong with the path
    try:
        with safe_open(path, "pt") as file:
            data = json.loads((file.metadata() or {}).get("mtdiff", "{}")).get("data", {})
            return {data[name]: file.get_tensor(name) for name in NAMES.values() if name in data}
    except (SafetensorError, ValueError, AttributeError) as error:
        raise UserError("is no file of precomputed features", str(path), HOW) from error


def check_features(features: Tensor, count: int, where: str) -> None:
    """Raise ``UserError`` unless these are ``count`` finite vectors."""
    if features.ndim != 2 or len(features) != count or not features.is_floating_point():
        raise UserError(
            f"features are {features.dtype} of shape {tuple(features.shape)}, not float of shape ({count}, F)", where
        )
    if not features.isfinite().all():
        raise UserError("features are not finite", where)
