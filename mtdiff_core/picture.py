"""The grid picture: what a person looks at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from mtdiff_core.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from mtdiff_core.generation import Generated
    from mtdiff_core.interfaces.modality import Modality

PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)
TILE = 64  # smallest height of a picture in pixels; smaller ones are enlarged by a whole factor
GAP = 6
MAX_CARDS = 64
MAX_WIDTH = 2000


def draw_grid(parts: Sequence[Generated], modalities: Mapping[str, Modality], path: Path) -> None:
    """Draw samples: a section for each direction, a card for each sample, a tile for each pictured modality.

    Modalities that are better read than looked at stand in the card's caption.

    Raises:
        UserError: The file cannot be written.
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
    write_atomically(path, buffer.getvalue())


def _section(part: Generated, modalities: Mapping[str, Modality]) -> Image.Image:
    """One direction: its title, and its cards in rows."""
    count = min(len(part), MAX_CARDS)
    pictures = {name: _tiles(modality, part.values[name][:count]) for name, modality in modalities.items()}
    pictured = {name: tiles for name, tiles in pictures.items() if tiles}
    cards = [
        _card([tiles[i] for tiles in pictured.values()], ", ".join(words[i] for words in part.texts.values()))
        for i in range(count)
    ]
    widest, tallest = max(card.width for card in cards), max(card.height for card in cards)
    rows = -(-count // max(1, round((count * tallest / widest) ** 0.5)))  # about a square
    columns = -(-count // rows)
    columns_note = " | ".join([*pictured, *([f"caption: {', '.join(part.texts)}"] if part.texts else [])])
    title, note = _text(str(part.direction), 16, INK), _text(columns_note, 12, FAINT)
    head = title.height + note.height + 2 * GAP
    width = max(columns * (widest + GAP), title.width, note.width)
    section = Image.new("RGB", (width, head + rows * (tallest + GAP)), PAPER)
    section.paste(title, (0, 0))
    section.paste(note, (0, title.height + GAP // 2))
    for i, card in enumerate(cards):
        section.paste(card, (i % columns * (widest + GAP), head + i // columns * (tallest + GAP)))
    return section


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


def _card(tiles: Sequence[Image.Image], caption: str) -> Image.Image:
    """Tiles side by side, the caption below."""
    label = _text(caption, 13, INK) if caption else None
    tiles_width = sum(tile.width + 2 for tile in tiles) - (2 if tiles else 0)
    tiles_height = max((tile.height for tile in tiles), default=0)
    width = max(tiles_width, label.width if label else 0)
    card = Image.new("RGB", (width, tiles_height + (label.height + 2 if label else 0)), PAPER)
    x = 0
    for tile in tiles:
        card.paste(tile, (x, 0))
        x += tile.width + 2
    if label:
        card.paste(label, ((width - label.width) // 2, tiles_height + 2))
    return card


def _text(text: str, size: int, colour: tuple[int, int, int]) -> Image.Image:
    """A line of text."""
    font = ImageFont.load_default(size)
    left, _, right, _ = font.getbbox(text or " ")
    line = Image.new("RGB", (max(1, int(right - left)) + 2, int(size * 1.3)), PAPER)
    ImageDraw.Draw(line).text((1 - left, 0), text, fill=colour, font=font)
    return line
