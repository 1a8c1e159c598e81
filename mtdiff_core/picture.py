"""The grid picture: what a person looks at."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from mtdiff_core.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.data.batches import Batch
    from mtdiff_core.generation import Generated
    from mtdiff_core.interfaces.modality import Modality

PAPER, INK, FAINT, NOTHING = (255, 255, 255), (20, 20, 20), (120, 120, 120), (236, 236, 236)
TILE = 64  # smallest height of a picture in pixels; smaller ones are enlarged by a whole factor
GAP = 6
MAX_CARDS = 64
MAX_WIDTH = 2000


def draw_grid(parts: Sequence[Generated], modalities: Mapping[str, Modality], path: Path) -> None:
    """Write the grid picture of samples, as PNG.

    Raises:
        UserError: The file cannot be written.
    """
    write_atomically(path, grid_png(parts, modalities))


def grid_png(parts: Sequence[Generated], modalities: Mapping[str, Modality]) -> bytes:
    """Draw samples: a section for each direction, a card for each sample, a tile for each pictured modality.

    Modalities that are better read than looked at stand in the card's caption, a line for each. Where the data has what
    was generated, that stands beside it: tiles after a gap, words after "truth". It is called so where something that
    is looked at was given; for a label or a number alone there are many right answers, and words stand after "data:".

    Returns:
        A PNG file; equal samples give equal bytes.
    """
    sections = [_section(part, modalities) for part in parts]
    width = sum(s.width for s in sections) + 4 * GAP * (len(sections) - 1)
    side_by_side = width <= MAX_WIDTH
    if side_by_side:
        height = max(s.height for s in sections)
    else:
        width, height = max(s.width for s in sections), sum(s.height for s in sections)
    page = Image.new("RGB", (width + 4 * GAP, height + 4 * GAP), PAPER)
    x = y = 2 * GAP
    for section in sections:
        page.paste(section, (x, y))
        x, y = (x + section.width + 4 * GAP, y) if side_by_side else (x, y + section.height)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def _section(part: Generated, modalities: Mapping[str, Modality]) -> Image.Image:
    """One direction: its title, and its cards in rows."""
    part = part.first(MAX_CARDS)
    pictured, truth = _pictures(part.values, modalities), _true_pictures(part, modalities)
    word, whose = ("truth", "true") if any(x in part.direction.known for x in pictured) else ("data:", "the data's")
    captions = _captions(part, modalities, word)
    cards = [
        _card([tiles[i] for tiles in pictured.values()], [tiles[i] for tiles in truth.values()], captions[i])
        for i in range(len(part))
    ]
    title, note = _text(str(part.direction), 16, INK), _text(_columns_note(part, pictured, truth, whose), 12, FAINT)
    # A card with a gap of its own stands further from the next.
    sheet = _sheet(cards, 3 * GAP if truth else GAP)
    head = title.height + note.height + 2 * GAP
    section = Image.new("RGB", (max(sheet.width, title.width, note.width), head + sheet.height), PAPER)
    section.paste(title, (0, 0))
    section.paste(note, (0, title.height + GAP // 2))
    section.paste(sheet, (0, head))
    return section


def _sheet(cards: Sequence[Image.Image], gap: int) -> Image.Image:
    """Cards in rows and columns, about a square; so many pixels between columns."""
    count, widest, tallest = len(cards), max(card.width for card in cards), max(card.height for card in cards)
    rows = -(-count // max(1, round((count * tallest / widest) ** 0.5)))
    columns = -(-count // rows)
    sheet = Image.new("RGB", (columns * (widest + gap), rows * (tallest + GAP)), PAPER)
    for i, card in enumerate(cards):
        row, column = divmod(i, columns)
        sheet.paste(card, (column * (widest + gap) + (widest - card.width) // 2, row * (tallest + GAP)))
    return sheet


def _pictures(values: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> dict[str, list[Image.Image]]:
    """Tiles of the modalities that have pictures."""
    tiles = {name: _tiles(modality, values[name]) for name, modality in modalities.items() if name in values}
    return {name: found for name, found in tiles.items() if found}


def _true_pictures(part: Generated, modalities: Mapping[str, Modality]) -> dict[str, list[Image.Image]]:
    """Tiles of what the data has in place of what was generated, empty ones where it has nothing."""
    if part.truth is None:
        return {}
    tiles = _pictures(part.truth.values, modalities)
    return {
        name: [
            tile if has else Image.new("RGB", tile.size, NOTHING)
            for tile, has in zip(found, part.truth.present[name].tolist(), strict=True)
        ]
        for name, found in tiles.items()
    }


def _captions(part: Generated, modalities: Mapping[str, Modality], word: str) -> list[list[str]]:
    """For each sample what its modalities say in words, with the data's words where it has them, after ``word``."""
    words = [_with_truth(texts, modalities[name], name, part.truth, word) for name, texts in part.texts.items()]
    return [[texts[i] for texts in words] for i in range(len(part))]


def _with_truth(texts: list[str], modality: Modality, name: str, truth: Batch | None, word: str) -> list[str]:
    """The texts of one modality, each with its truth."""
    if truth is None or name not in truth.values:
        return texts
    true = modality.describe(truth.values[name])
    if true is None:  # it has words for what was decoded alone
        return texts
    rows = zip(texts, true, truth.present[name].tolist(), strict=True)
    return [f"{text}, {word} {right}" if has else text for text, right, has in rows]


def _columns_note(part: Generated, pictured: Collection[str], truth: Collection[str], whose: str) -> str:
    """What stands where on a card."""
    known = part.direction.known
    named = {name: f"given {name}" if name in known else name for name in (*pictured, *part.texts)}
    shown = [*(named[name] for name in pictured), *(f"{whose} {name}" for name in truth)]
    words = [f"caption: {', '.join(named[name] for name in part.texts)}"] if part.texts else []
    return " | ".join([*shown, *words])


def _tiles(modality: Modality, values: Tensor) -> list[Image.Image]:
    """A modality's pictures, enlarged to be seen; empty if it has none."""
    pictures = modality.render(values)
    if pictures is None:
        return []
    height, width = pictures.shape[-2:]
    factor = max(1, -(-TILE // height))
    return [
        to_pil_image(picture).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        for picture in pictures
    ]


def _card(tiles: Sequence[Image.Image], truth: Sequence[Image.Image], caption: Sequence[str]) -> Image.Image:
    """Tiles side by side, the true ones after a gap, the caption's lines below."""
    groups = [_beside(group, 2) for group in (tiles, truth) if group]
    pictures = [_beside(groups, GAP)] if groups else []
    lines = [*pictures, *(_text(line, 13, INK) for line in caption)] or [_text("", 13, INK)]
    width = max(line.width for line in lines)
    card = Image.new("RGB", (width, sum(line.height for line in lines) + 2 * (len(lines) - 1)), PAPER)
    y = 0
    for line in lines:
        card.paste(line, ((width - line.width) // 2, y))
        y += line.height + 2
    return card


def _beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures in a row, so many pixels apart."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row


def _text(text: str, size: int, colour: tuple[int, int, int]) -> Image.Image:
    """A line of text."""
    font = ImageFont.load_default(size)
    left, _, right, _ = font.getbbox(text or " ")
    line = Image.new("RGB", (max(1, int(right - left)) + 2, int(size * 1.3)), PAPER)
    ImageDraw.Draw(line).text((1 - left, 0), text, fill=colour, font=font)
    return line
