"""The judge: a small network trained on the real training split alone, apart from any diffusion model.

It tells the data set's classes, of pictures and of their pixels, whichever there are. Where there are none, it is
trained without labels (VICReg). Its weights are kept in the cache by the very data that they were trained on.

Letters for shapes: N pictures, B batch, F features, C channels, K classes, H W height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mtdiff_core import UserError, Workshop
from mtdiff_core.randomness import global_stream
from mtdiff_metrics import network as picture_network
from mtdiff_metrics.data import (
    Pictures,
    classes_of,
    held_out_pictures,
    label_fields,
    map_fields,
    natural_shapes,
    pictures_of,
)
from mtdiff_metrics.extractors import AT_ONCE, Extractor, finite
from mtdiff_metrics.network import PictureNetwork, train
from mtdiff_metrics.overlap import mean_iou, overlaps

if TYPE_CHECKING:
    from mtdiff_core import RealData, Shape

FORMAT = 1  # raise it whenever what is trained changes, so that no older judge is taken for it
# Without classes: the network's width, a quarter of its features; steps; pixels that it sees.
WIDTH, STEPS, RESOLUTION = 16, 200, 32

Seen = tuple[Tensor, list[Tensor], list[Tensor]]


class Judge(Extractor):
    """A trained network that looks once at a batch, however many metrics ask what it sees.

    Args:
        network: Pictures ``(B, C, H, W)`` in 0..1 to features, logits of labels, and logits of maps.
        labels: Number of classes by field, in the order of the network's heads.
        maps: The same of fields that are a class for each pixel.
        device: Where the network runs.
    """

    def __init__(
        self, network: nn.Module, labels: Mapping[str, int], maps: Mapping[str, int], device: torch.device
    ) -> None:
        self.network, self.device = network.to(device).eval(), device
        self.label_fields, self.map_fields = dict(labels), dict(maps)
        self.name = "judge"
        self._last: tuple[Tensor, Seen] | None = None

    def features(self, pictures: Tensor) -> Tensor:
        """Features ``(B, F)``."""
        return self._look(pictures)[0]

    def probabilities(self, pictures: Tensor) -> Tensor | None:
        """Of the classes of the first label."""
        return self._look(pictures)[1][0].softmax(dim=1) if self.label_fields else None

    def labels(self, pictures: Tensor, field: str) -> Tensor:
        """Its opinion of a label, int64 ``(B,)``."""
        return self._look(pictures)[1][list(self.label_fields).index(field)].argmax(dim=1)

    def maps(self, pictures: Tensor, field: str) -> Tensor:
        """Its opinion of a map, int64 ``(B, H, W)``."""
        return self._look(pictures)[2][list(self.map_fields).index(field)]

    def _look(self, pictures: Tensor) -> Seen:
        if self._last is None or self._last[0] is not pictures:
            self._last = (pictures, self._see(pictures))
        return self._last[1]

    @torch.no_grad()
    def _see(self, pictures: Tensor) -> Seen:
        """Features, logits of labels, and classes of maps, on the host."""
        seen = [self.network(part.to(self.device)) for part in torch.split(pictures, AT_ONCE)]
        features = torch.cat([part[0].float().cpu() for part in seen])
        labels = [torch.cat([part[1][i].float().cpu() for part in seen]) for i in range(len(self.label_fields))]
        maps = [torch.cat([part[2][i].argmax(dim=1).cpu() for part in seen]) for i in range(len(self.map_fields))]
        return finite(features, "the judge"), labels, maps


def judge_of(real: RealData, modality: str) -> Judge:
    """The judge of a modality's pictures, trained or found in the cache when it is first asked for.

    Raises:
        UserError: There are too few pictures to train one on.
    """
    return real.once(f"metrics: judge of {modality}", lambda: _make(real, modality))


def _make(real: RealData, modality: str) -> Judge:
    shape, device = natural_shapes(real)[modality], real.workshop.device
    pictures = pictures_of(real, modality, "train")
    if len(pictures) < 2:
        raise UserError("one picture is too few to train a judge on", f"modalities.{modality}")
    labels, maps = label_fields(real), map_fields(real, shape)
    if not labels and not maps:
        return _judge_without_classes(real.workshop, modality, pictures)
    network = trained_network(real, modality, pictures, labels, maps)
    judge = Judge(network, labels, maps, device)
    judge.name = f"judge ({'; '.join(_reliability(judge, real, modality))})"
    return judge


def trained_network(
    real: RealData,
    modality: str,
    pictures: Pictures,
    labels: Mapping[str, int],
    maps: Mapping[str, int],
    ignore: int = -1,
) -> nn.Module:
    """A network trained on real pictures of the training split and these of its fields, or found in the cache.

    A class that is ignored is not taught.
    """
    classes = {field: classes_of(real, field, "train", pictures.rows) for field in (*labels, *maps)}
    classes = {field: torch.where(x == ignore, -1, x) for field, x in classes.items()}
    network = network_for(tuple(pictures.pixels.shape[1:]), labels, maps)
    key: dict[str, str | int] = {
        "what": "judge",
        "judge_format": FORMAT,
        "data": _fingerprint(pictures.pixels, *classes.values()),
        "heads": str((list(labels.items()), list(maps.items()))),
        "steps": picture_network.MAP_STEPS if maps else picture_network.STEPS,
        "device": real.workshop.device.type,
    }

    def compute() -> nn.Module:
        targets = [classes[field] for field in labels], [classes[field] for field in maps]
        train(network, pictures.pixels, *targets, f"training a judge of {modality}", real.workshop)
        return network

    return _kept(network, key, compute, real.workshop)


def network_for(shape: Shape, labels: Mapping[str, int], maps: Mapping[str, int]) -> PictureNetwork:
    """An untrained network for pictures of a shape ``(C, H, W)``, with heads for these fields."""
    with global_stream(0, "picture network", "weights"):
        return PictureNetwork(shape[0], shape[1:], list(labels.values()), list(maps.values()))


def _judge_without_classes(workshop: Workshop, modality: str, pictures: Pictures) -> Judge:
    """A judge of features alone, as the representation has it."""
    from mtdiff_representation.extractors.self_trained import Shrink, SmallNetwork, stem_stride
    from mtdiff_representation.vicreg import train as train_without_labels

    pixels = torch.cat([Shrink(RESOLUTION)(part) for part in torch.split(pictures.pixels, AT_ONCE)])
    with global_stream(0, "judge", "weights"):
        network = SmallNetwork(pixels.shape[1], WIDTH, stem_stride(pixels.shape[-2:]))
    key: dict[str, str | int] = {
        "what": "judge-without-classes",
        "judge_format": FORMAT,
        "data": _fingerprint(pixels),
        "steps": STEPS,
        "device": workshop.device.type,
    }

    def compute() -> nn.Module:
        # The seed is the same whatever a recipe's: figures of runs that differ in theirs are to be comparable.
        seedless = Workshop(workshop.device, 0, workshop.progress, workshop.cache)
        train_without_labels(network, pixels, STEPS, False, seedless)
        return network

    whole = nn.Sequential(Shrink(RESOLUTION), _Centred(), _kept(network, key, compute, workshop), _FeaturesAlone())
    judge = Judge(whole, {}, {}, workshop.device)
    judge.name = f"judge (trained on {modality} without labels)"
    return judge


class _Centred(nn.Module):
    """Pictures in 0..1 to -1..1."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Of any shape."""
        return 2 * pictures - 1


class _FeaturesAlone(nn.Module):
    """Features as a network gives them that knows no classes."""

    def forward(self, features: Tensor) -> Seen:
        """``(B, F)`` to the same, no labels and no maps."""
        return features, [], []


def _kept(
    network: nn.Module, key: dict[str, str | int], compute: Callable[[], nn.Module], workshop: Workshop
) -> nn.Module:
    """The network with the weights that the cache has under this key, or else with those that are computed."""
    from mtdiff_representation.cache import cached

    def weights() -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in compute().state_dict().items()}

    network.load_state_dict(cached(workshop.cache, key, weights, room="judge"))
    return network.to(workshop.device).eval()


def _fingerprint(*tensors: Tensor) -> str:
    """SHA-256, in hexadecimal, of tensors in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(cast("bytes", tensor.contiguous().numpy()))
    return digest.hexdigest()


def _reliability(judge: Judge, real: RealData, modality: str) -> Iterator[str]:
    """What the judge is, and how well it reads the test split."""
    pictures = held_out_pictures(real, modality)
    for field in judge.label_fields:
        share = None if pictures is None else label_share(judge, real, field, pictures)
        yield f"classifier of {field}" + ("" if share is None else f", right on {share:.3f} of the test split")
    for field in judge.map_fields:
        iou = None if pictures is None else map_iou(judge, real, field, pictures)
        yield f"segmenter of {field}" + ("" if iou is None else f", mean IoU {iou:.2f} on the test split")


def label_share(judge: Judge, real: RealData, field: str, pictures: Pictures) -> float | None:
    """Share of the test split's pictures whose label the judge has right; None if none has that label."""
    truth = classes_of(real, field, "test", pictures.rows)
    found = torch.cat([judge.labels(part.float() / 255, field) for part in torch.split(pictures.pixels, AT_ONCE)])
    known = truth >= 0
    return float((found == truth)[known].double().mean()) if known.any() else None


def map_iou(judge: Judge, real: RealData, field: str, pictures: Pictures, ignore: int = -1) -> float | None:
    """Mean IoU of the judge's maps of the test split's pictures; None if none has such a map."""
    truth = classes_of(real, field, "test", pictures.rows)
    classes = judge.map_fields[field]
    counts = torch.zeros(1, 2 * classes, dtype=torch.int64)
    for pixels, maps in zip(torch.split(pictures.pixels, AT_ONCE), torch.split(truth, AT_ONCE), strict=True):
        counts += overlaps(judge.maps(pixels.float() / 255, field), maps, classes, ignore).sum(dim=0)
    return float(mean_iou(counts)) if counts.any() else None
