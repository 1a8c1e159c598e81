"""The kit's own real data for metrics: a bright square on a dark ground.

Letters for shapes: N samples, B batch, H W height and width.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from mtdiff_core.data.samples import TensorSamples
from mtdiff_core.interfaces.component import component
from mtdiff_core.interfaces.dataset import FieldSpec
from mtdiff_core.interfaces.metric import RealData, ScoredBatch
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_core.randomness import generator
from mtdiff_core.testing.toys import Ground, Side

if TYPE_CHECKING:
    from mtdiff_core.directions import Direction
    from mtdiff_core.interfaces.dataset import Samples, Split
    from mtdiff_core.interfaces.modality import Modality

T = TypeVar("T")
EVERY = slice(None)
SIZE = 12
BRIGHTNESS = (80, 160, 240)
COUNTS: dict[Split, int] = {"train": 192, "test": 160}
FIELDS = {
    "picture": FieldSpec(shape=(1, SIZE, SIZE), dtype="uint8"),
    "twin": FieldSpec(shape=(1, SIZE, SIZE), dtype="uint8"),
    "sort": FieldSpec(shape=(), dtype="int64", classes=("dim", "grey", "bright")),
    "map": FieldSpec(shape=(SIZE, SIZE), dtype="int64", classes=("ground", "square")),
    "vector": FieldSpec(shape=(4,), dtype="float32"),
}


@component
class Pictures(Ground):
    """Pictures, uint8."""

    table_kind: ClassVar[str] = "pictures"

    def natural(self, values: Tensor) -> Tensor:
        """0 to 1."""
        return values.float() / 255


@component
class Maps(Side):
    """Classes of pixels."""

    table_kind: ClassVar[str] = "maps"


@component
class Vectors(Ground):
    """Vectors."""

    table_kind: ClassVar[str] = "vectors"


class KitData(RealData):
    """Pictures, a darker twin of each, how bright they are, where the square is, and where it is as numbers."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.workshop = Workshop(torch.device("cpu"), seed=0, cache=Path(folder))
        self.modalities: dict[str, Modality] = {
            "picture": Pictures().bind(FIELDS["picture"]),
            "twin": Pictures().bind(FIELDS["twin"]),
            "sort": Side().bind(FIELDS["sort"]),
            "map": Maps().bind(FIELDS["map"]),
            "vector": Vectors().bind(FIELDS["vector"]),
        }
        self._splits = {split: _squares(count, split) for split, count in COUNTS.items()}
        self._made: dict[str, Any] = {}

    def samples(self, split: Split) -> Samples:
        """All fields."""
        return TensorSamples(FIELDS, self._splits[split])

    def field(self, modality: str) -> str:
        """Of the same name."""
        return modality

    def natural(self, split: Split) -> dict[str, Tensor]:
        """All values of a split in natural units."""
        return {name: self.modalities[name].natural(x) for name, x in self._splits[split].items()}

    def batches(self, split: Split) -> Iterator[ScoredBatch]:
        """All samples of a split."""
        values = self.natural(split)
        for rows in torch.arange(COUNTS[split]).split(32):  # type: ignore[no-untyped-call]
            part = {name: x[rows] for name, x in values.items()}
            present = {name: torch.ones(len(rows), dtype=torch.bool) for name in part}
            yield ScoredBatch(values=part, truth=part, present=present)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Made the first time."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])


@cache
def kit_data() -> KitData:
    """The data, made once: judges that metrics train on it are kept with it."""
    return KitData()


def generated(real: KitData, one: Direction, rows: slice = EVERY) -> ScoredBatch:
    """Test samples with values as a model might generate them in a direction: about right."""
    truth = {name: x[rows] for name, x in real.natural("test").items()}
    about = {
        name: _about(real.natural("test")[name], FIELDS[name], generator(0, "kit", name)) for name in one.generated
    }
    values = {**truth, **{name: x[rows] for name, x in about.items()}}
    true = {name: truth[name] for name in one.generated} if one.known else {}
    return ScoredBatch(
        values=values,
        truth=true,
        present={name: torch.ones(len(x), dtype=torch.bool) for name, x in true.items()},
        distributions={name: _said(values[name], FIELDS[name]) for name in one.generated},
    )


def _about(truth: Tensor, spec: FieldSpec, random: torch.Generator) -> Tensor:
    """Values that are nearly the true ones."""
    if spec.classes:
        return (truth + (torch.rand(truth.shape, generator=random) < 0.2)) % len(spec.classes)
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=random)
    return noisy.clamp(0, 1) if spec.dtype == "uint8" else noisy


def _said(values: Tensor, spec: FieldSpec) -> Distribution:
    """A distribution that values may have been read from."""
    if spec.classes:
        count = len(spec.classes)
        said: Distribution = Categorical(probs=torch.nn.functional.one_hot(values, count) * 0.7 + 0.3 / count)
    else:
        said = Normal(values, 0.1)
    return Independent(said, values.ndim - 1) if values.ndim > 1 else said


def _squares(count: int, split: str) -> Mapping[str, Tensor]:
    """The fields of so many samples."""
    random = generator(0, "kit", "squares", split)
    left, top = torch.randint(0, SIZE - 4, (2, count, 1, 1), generator=random)
    place = torch.arange(SIZE)
    inside = (place >= left) & (place < left + 5) & (place[:, None] >= top) & (place[:, None] < top + 5)  # (N, H, W)
    sort = torch.randint(len(BRIGHTNESS), (count,), generator=random)
    noise = torch.randint(0, 15, (count, SIZE, SIZE), generator=random)
    picture = (inside * torch.tensor(BRIGHTNESS)[sort][:, None, None] + noise).byte()[:, None]
    corners = torch.cat([left, top, left + 5, top + 5], dim=1).flatten(1).float() / SIZE  # (N, 4)
    return {"picture": picture, "twin": picture // 4, "sort": sort, "map": inside.long(), "vector": corners}
