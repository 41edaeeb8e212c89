"""Contact sheets: one cell per sample with its text, what went in and what came out."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from unipic2_data.batch import Batch

__all__ = ["GridCell", "save_grid"]

PICTURE = 112  # edge of a picture on the sheet, pixels
MARGIN = 10
TEXT_LINES = 3
LINE = 13
PER_ROW = {1: 6, 3: 2}  # cells of a row, by pictures of a cell: rows of about the same width
LABELS = {1: ("generated",), 3: ("source", "edited", "expected")}


@dataclass
class GridCell:
    """Pictures side by side, uint8 (H, W, 3) each, and their text: [generated] or [source, edited, expected]."""

    pictures: list[np.ndarray]
    text: str

    @classmethod
    def of_batch(cls, batch: Batch, generated: Tensor) -> list[GridCell]:
        """Return the cells of a batch: ``generated`` is uint8 (B, H, W, 3)."""
        cells = []
        for row, prompt in enumerate(batch.prompts):
            pictures = [generated[row].numpy()]
            if batch.references is not None and batch.pixels is not None:
                pictures = [_to_image(batch.references[row]), *pictures, _to_image(batch.pixels[row])]
            cells.append(cls(pictures, prompt))
        return cells


def save_grid(cells: Sequence[GridCell], file: Path) -> None:
    """Write a contact sheet: text-to-image cells first, then edits with their three pictures."""
    rows: list[list[GridCell]] = []
    for wide in sorted({len(cell.pictures) for cell in cells}):
        same = [cell for cell in cells if len(cell.pictures) == wide]
        rows += [same[start : start + PER_ROW[wide]] for start in range(0, len(same), PER_ROW[wide])]
    row_height = PICTURE + MARGIN + TEXT_LINES * LINE + LINE
    width = max(sum(_cell_width(cell) for cell in row) for row in rows) + MARGIN
    sheet = Image.new("RGB", (width, row_height * len(rows) + MARGIN), "white")
    for index, row in enumerate(rows):
        left = MARGIN
        for cell in row:
            _draw_cell(sheet, cell, left, MARGIN + index * row_height)
            left += _cell_width(cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    sheet.save(partial, format="PNG")
    partial.rename(file)


def _cell_width(cell: GridCell) -> int:
    return len(cell.pictures) * (PICTURE + 4) + 2 * MARGIN


def _draw_cell(sheet: Image.Image, cell: GridCell, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    width = _cell_width(cell) - MARGIN
    lines = textwrap.wrap(cell.text, max(10, width // 6))[:TEXT_LINES]
    above = top + (TEXT_LINES - len(lines)) * LINE - 3  # the text stands on the pictures, however many lines it has
    draw.text((left, above), "\n".join(lines), fill="black", font=font, spacing=1)
    top += TEXT_LINES * LINE
    for index, (picture, label) in enumerate(zip(cell.pictures, LABELS[len(cell.pictures)], strict=True)):
        place = left + index * (PICTURE + 4)
        enlarged = Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (place, top))
        if len(cell.pictures) > 1:
            draw.text((place, top + PICTURE), label, fill="gray", font=font)


def _to_image(picture: Tensor) -> np.ndarray:
    return picture.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy()
