"""The grid picture: what stands where, and the truth beside what was generated."""

import attrs
import pytest
import torch
from PIL import Image as Picture
from torchvision.transforms.v2.functional import pil_to_tensor

from mtdiff_core import FieldSpec, picture
from mtdiff_core.data.batches import Batch
from mtdiff_core.directions import direction
from mtdiff_core.generation import Generated
from mtdiff_core.picture import GAP, NOTHING, TILE, draw_grid, grid_png
from mtdiff_image import Image
from mtdiff_label import Label

MODALITIES = {
    "image": Image().bind(FieldSpec(shape=(1, 8, 8), dtype="uint8")),
    "label": Label().bind(FieldSpec(shape=(), dtype="int64", classes=("ant", "bee", "cat"))),
}
MADE, TRUE = 51, 204  # greys of generated and of true pictures


def flat(grey, count=3):
    return torch.full((count, 1, 8, 8), grey / 127.5 - 1)


def generated(known, truth=None, has=(True, True, True)):
    labels = torch.tensor([0, 1, 2])
    texts = {"label": ["ant (90%)", "bee (80%)", "cat (70%)"]}
    true = {"image": flat(TRUE), "label": torch.tensor([2, 2, 2])}
    present = {name: torch.tensor(has) for name in true}
    asked = direction(known, MODALITIES)
    return Generated(
        direction=asked,
        values={"image": flat(MADE), "label": labels},
        texts=texts,
        truth=Batch(values=true, present=present).only(asked.generated) if truth else None,
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw samples; gives the picture's pixels, and every text in it."""
    said, text = [], picture._text
    monkeypatch.setattr(picture, "_text", lambda words, *rest: said.append(words) or text(words, *rest))

    def call(*parts):
        said.clear()
        draw_grid(parts, MODALITIES, tmp_path / "grid.png")
        with Picture.open(tmp_path / "grid.png") as grid:
            return pil_to_tensor(grid.convert("RGB")), list(said)

    return call


def places(pixels, colour):
    """Which pixels have a colour, bool ``(H, W)``."""
    return (pixels == torch.tensor(colour)[:, None, None]).all(dim=0)


def tiles(pixels, colour):
    """How many tiles have a colour; the edges of letters may have it too."""
    return int(places(pixels, colour).sum()) // TILE**2


def columns(pixels, colour):
    """The columns of pixels that cross a tile of a colour."""
    return (places(pixels, colour).sum(dim=0) >= TILE).nonzero().flatten().tolist()


def grey(level):
    return (level, level, level)


def test_a_true_picture_is_missing_or_touches_the_generated_one(drawn):
    pixels, said = drawn(generated(["label"], truth=True))
    assert tiles(pixels, grey(MADE)) == tiles(pixels, grey(TRUE)) == 3
    assert columns(pixels, grey(TRUE))[0] - columns(pixels, grey(MADE))[TILE - 1] == GAP + 1
    assert said[:3] == ["ant (90%)", "bee (80%)", "cat (70%)"], "what was given has no truth of its own"
    assert said[3:] == ["label -> image", "image | the data's image | caption: given label"]


def test_a_true_label_is_missing_from_the_caption(drawn):
    pixels, said = drawn(generated(["image"], truth=True))
    assert tiles(pixels, grey(TRUE)) == 0
    assert said[:3] == ["ant (90%), truth cat", "bee (80%), truth cat", "cat (70%), truth cat"]
    assert said[3:] == ["image -> label", "given image | caption: label"]


def test_one_of_many_answers_is_called_the_truth_or_modalities_share_a_line(drawn, monkeypatch):
    part, kinds = generated(["label"], truth=True), torch.tensor([1, 1, 1])
    monkeypatch.setitem(MODALITIES, "kind", MODALITIES["label"])
    present = {"image": part.truth.present["image"], "kind": torch.tensor([True, True, False])}
    _, said = drawn(
        attrs.evolve(
            part,
            values={**part.values, "kind": kinds},
            texts={**part.texts, "kind": ["cat (60%)", "bee (50%)", "ant (40%)"]},
            truth=Batch(values={"image": part.truth.values["image"], "kind": kinds}, present=present),
        )
    )
    assert said[:4] == ["ant (90%)", "cat (60%), data: bee", "bee (80%)", "bee (50%), data: bee"]
    assert said[4:6] == ["cat (70%)", "ant (40%)"]


def test_a_truth_is_made_up_where_the_data_has_none(drawn):
    pixels, _ = drawn(generated(["label"], truth=True, has=(True, False, True)))
    assert tiles(pixels, grey(TRUE)) == 2
    assert tiles(pixels, NOTHING) == 1
    _, said = drawn(generated(["image"], truth=True, has=(False, True, False)))
    assert said[:3] == ["ant (90%)", "bee (80%), truth cat", "cat (70%)"]


def test_samples_that_cannot_be_seen_break_the_grid():
    class Unseen:
        render = describe = staticmethod(lambda *_: None)

    asked = direction([], ["vector"])
    grid_png([Generated(direction=asked, values={"vector": torch.zeros(3, 5)}, texts={})], {"vector": Unseen()})


@pytest.mark.parametrize("known", [[], ["label"]])
def test_samples_without_a_truth_have_one(drawn, known):
    pixels, said = drawn(generated(known))
    assert tiles(pixels, grey(MADE)) == 3
    assert tiles(pixels, grey(TRUE)) == 0
    assert not any("truth" in text or "true" in text for text in said)
