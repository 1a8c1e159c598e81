"""Small real data for metrics: a square on a plain ground, its brightness as label, its place as map."""

import torch
from attrs import define

from mtdiff_core import FieldSpec, MissingSplitError, RealData, ScoredBatch, Workshop
from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.randomness import generator
from mtdiff_image.modality import Image
from mtdiff_label import Label
from mtdiff_mask.masked_image import MaskedImage
from mtdiff_mask.segmentation import Segmentation

SIZE = 12
READS = {"image": "picture", "night": "dark", "label": "what", "map": "where", "hidden": "picture"}
BRIGHTNESS = (80, 160, 240)
UNLABELLED = 255

FIELDS = {
    "picture": FieldSpec(shape=(1, SIZE, SIZE), dtype="uint8"),
    "dark": FieldSpec(shape=(1, SIZE, SIZE), dtype="uint8"),
    "what": FieldSpec(shape=(), dtype="int64", classes=("dim", "grey", "bright")),
    "where": FieldSpec(shape=(SIZE, SIZE), dtype="uint8", classes=("ground", "square")),
}


def squares(count, seed):
    """The fields of so many samples; the upper row of each map is unlabelled."""
    random = torch.Generator().manual_seed(seed)
    left, top = torch.randint(0, SIZE - 4, (2, count, 1, 1), generator=random)
    place = torch.arange(SIZE)
    inside = (place >= left) & (place < left + 5) & (place[:, None] >= top) & (place[:, None] < top + 5)
    what = torch.randint(0, 3, (count,), generator=random)
    noise = torch.randint(0, 30, (count, SIZE, SIZE), generator=random)
    picture = (inside * torch.tensor(BRIGHTNESS)[what][:, None, None] * 7 // 8 + noise).byte()[:, None]
    where = inside.byte()
    where[:, 0] = UNLABELLED
    return {"picture": picture, "dark": picture // 4, "what": what, "where": where}


@define
class Vector:
    """A modality that is a vector: as much of one as metrics look at."""

    spec: FieldSpec
    table_kind = "vectors"

    def prepare(self, values, generator):
        return values

    def natural(self, values):
        return values


class SmallData(RealData):
    """Data of the fields above, in memory.

    Args:
        cache: Folder of the cache.
        names: Which of the fields there are; ``vector`` is read off the picture.
        counts: Number of samples of each split; a split that is left out is missing.
        lacking: For each field, every so-manieth sample lacks it.
    """

    def __init__(self, cache, names=tuple(FIELDS), counts=None, lacking=None):
        counts = counts or {"train": 150, "test": 80}
        self.workshop = Workshop(torch.device("cpu"), 0, cache=cache)
        self.lacking = lacking or {}
        self._splits = {
            split: {name: x for name, x in squares(count, len(split)).items() if name in names}
            for split, count in counts.items()
        }
        made = {
            "image": Image(), "night": Image(), "label": Label(), "map": Segmentation(ignore=UNLABELLED),
            "hidden": MaskedImage(kinds=("half",)),
        }  # fmt: skip
        self.modalities = {
            name: modality.bind(FIELDS[READS[name]]) for name, modality in made.items() if READS[name] in names
        }
        self.modalities["vector"] = Vector(FieldSpec(shape=(4,), dtype="float32"))
        self.kept = {}

    def samples(self, split):
        if split not in self._splits:
            raise MissingSplitError(f"there is no {split} split")
        tensors = self._splits[split]
        return _Lacking({name: FIELDS[name] for name in tensors}, tensors, self.lacking)

    def field(self, modality):
        return READS.get(modality, "picture")

    def batches(self, split):
        samples = self.samples(split)
        values = {}
        for name, modality in self.modalities.items():
            stored = self._splits[split][self.field(name)]
            if name == "vector":
                stored = stored.float().flatten(1)[:, ::40][:, :4]
            values[name] = modality.natural(modality.prepare(stored, generator(0, name)))
        present = {name: torch.tensor([self.field(name) in samples[i] for i in range(len(samples))]) for name in values}
        for rows in torch.arange(len(samples)).split(32):
            part = {name: x[rows] for name, x in values.items()}
            yield ScoredBatch(values=part, truth=part, present={name: x[rows] for name, x in present.items()})

    def once(self, key, make):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def scorers(self, metric, direction):
        """Scorers of a metric in a direction such as ``"label -> image"``, of the modalities it names."""
        left, _, right = direction.partition("->")
        known, generated = (tuple(name.strip() for name in side.split("+") if name.strip()) for side in (left, right))
        chosen = {name: self.modalities[name] for name in self.modalities if name in known + generated}
        return metric.scorers(known, generated, chosen, self)


class _Lacking(TensorSamples):
    def __init__(self, fields, tensors, lacking):
        super().__init__(fields, tensors)
        self._lacking = lacking

    def __getitem__(self, index):
        return {
            name: x for name, x in super().__getitem__(index).items() if not name_is_lacking(self._lacking, name, index)
        }


def name_is_lacking(lacking, name, index):
    return name in lacking and index % lacking[name] == 0


def figures(scorers, *batches):
    """All figures of scorers that have seen these batches, by name and what they are about."""
    for scorer in scorers:
        for batch in batches:
            scorer.update(batch)
    found = [figure for scorer in scorers for figure in scorer.figures()]
    return {(figure.name, *figure.of): figure for figure in found}


def told(values, truth, present=None, distributions=None):
    """A batch of values with their truth."""
    count = len(next(iter(values.values())))
    everywhere = {name: torch.ones(count, dtype=torch.bool) for name in truth}
    return ScoredBatch(
        values=values, truth=truth, present={**everywhere, **(present or {})}, distributions=distributions or {}
    )
