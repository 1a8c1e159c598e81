"""Real handwritten digits that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mtdiff_core import DatasetSource, component, option

if TYPE_CHECKING:
    from mtdiff_core import Samples, Split

FILE = Path(__file__).parent / "data" / "digits.safetensors"
TRAINING_SAMPLES = 1500


@component
class Digits(DatasetSource):
    """1,797 handwritten digits (UCI, CC BY 4.0): fields image and label; 1,500 to train, 297 to test."""

    size: int = option(16, help="height and width in pixels; the originals have 8", minimum=4, maximum=256)

    def open(self, split: Split) -> Samples:
        """The first 1,500 of the shuffled set, or the last 297."""
        from safetensors.torch import load_file
        from torchvision.transforms.v2 import functional

        from mtdiff_core import FieldSpec, TensorSamples

        stored = load_file(FILE)
        part = slice(0, TRAINING_SAMPLES) if split == "train" else slice(TRAINING_SAMPLES, None)
        ink = stored["image"][part].float() / 16  # (N, 1, 8, 8), originally 0..16
        resized = functional.resize(
            ink, [self.size, self.size], interpolation=functional.InterpolationMode.BICUBIC, antialias=True
        )
        fields = {
            "image": FieldSpec(shape=(1, self.size, self.size), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=tuple("0123456789")),
        }
        images = (resized.clamp(0, 1) * 255).round().byte()
        return TensorSamples(fields, {"image": images, "label": stored["label"][part].long()})
