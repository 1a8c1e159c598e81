"""Scenes: a procedural world by day and by night, with an exact segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdiff_core import DatasetSource, FieldSpec, MissingSplitError, component, option
from mtdiff_datasets.scenes.objects import OBJECTS

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core import Samples, Split

MOST_KEPT = 2**30  # bytes of painted scenes; those beyond are painted each time they are asked for


@component
class Scenes(DatasetSource):
    """Procedural landscapes with one of eight objects: fields image (by day), night, label and segmentation.

    Classes are balanced: one sample of each in every eight. A sample is the same whatever the number of samples.
    """

    size: int = option(32, help="height and width in pixels", minimum=16, maximum=256)
    train: int = option(4000, help="number of training samples", minimum=1, maximum=10_000_000)
    test: int = option(500, help="number of test samples", minimum=0, maximum=10_000_000)
    data_seed: int = option(0, help="names the set of scenes", minimum=0)

    def open(self, split: Split) -> Samples:
        """One split; a scene is painted when it is first asked for and kept in memory, up to 1 GiB of them."""
        count = self.train if split == "train" else self.test
        if count == 0:
            raise MissingSplitError("there are no scenes in this split", f"data.{split} = 0", "give a larger number")
        return SceneSamples(split, count, self.size, self.data_seed)


class SceneSamples:
    """Scenes that are painted when they are first asked for.

    Args:
        split: What their random numbers are named after, beside the seed and the index.
        count: Number of scenes.
        size: Height and width in pixels.
        seed: Names the set of scenes.
    """

    def __init__(self, split: Split, count: int, size: int, seed: int) -> None:
        from mtdiff_datasets.scenes.world import CATEGORIES

        self._split, self._count, self._size, self._seed = split, count, size, seed
        self._kept: dict[int, dict[str, Tensor]] = {}
        self.fields = {
            "image": FieldSpec(shape=(3, size, size), dtype="uint8"),
            "night": FieldSpec(shape=(3, size, size), dtype="uint8"),
            "label": FieldSpec(shape=(), dtype="int64", classes=tuple(OBJECTS)),
            "segmentation": FieldSpec(shape=(size, size), dtype="uint8", classes=CATEGORIES),
        }

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = range(self._count)[index]
        scene = self._kept.get(place) or self._painted(place)
        if (len(self._kept) + 1) * sum(x.nbytes for x in scene.values()) <= MOST_KEPT:
            self._kept[place] = scene
        return dict(scene)

    def _painted(self, index: int) -> dict[str, Tensor]:
        from random import Random

        import torch

        from mtdiff_core.randomness import stream_seed
        from mtdiff_datasets.scenes.painter import paint
        from mtdiff_datasets.scenes.world import draw_scene

        label = index % len(OBJECTS)
        random = Random(stream_seed(self._seed, "scenes", self._split, index))
        painting = paint(draw_scene(list(OBJECTS)[label], random), self._size)
        return {
            "image": painting.day,
            "night": painting.night,
            "label": torch.tensor(label),
            "segmentation": painting.segmentation,
        }
