"""Contact sheets: many pictures on a page, each with its prompt below it; edits beside what they were made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from unipic2_apps.metadata import Kind, png_info
from unipic2_apps.outputs import write

__all__ = ["Cell", "draw", "write_sheets"]

PER_PAGE, MAX_COLUMNS = 96, 8
EDGE = 192
"""Edge of a picture's place, in px."""
GAP, INNER, LINE, LINES = 20, 6, 15, 3
INK, PAPER = "#222222", "#ffffff"


@dataclass(frozen=True)
class Cell:
    """A place on a sheet."""

    caption: str
    pictures: tuple[Path, ...]
    """One picture, or what was edited and the result."""


def write_sheets(cells: Sequence[Cell], path: Path, *, columns: int = 1, ai_label: bool = True) -> list[Path]:
    """Write a sheet, or several numbered ones if one page is not enough, and return their files.

    Args:
        cells: What to show.
        path: File of the first sheet.
        columns: Cells that belong side by side, such as the pictures of one prompt.
        ai_label: Say in the file that the pictures were made by AI.

    Raises:
        UsageError: If they can't be written.
    """
    pages = [cells[start : start + PER_PAGE] for start in range(0, len(cells), PER_PAGE)]
    paths = [path if index == 0 else path.with_stem(f"{path.stem}_{index + 1}") for index in range(len(pages))]
    for page, target in zip(pages, paths, strict=True):
        kind: Kind = "edit" if any(len(cell.pictures) > 1 for cell in page) else "generate"
        write(target, partial(draw(page, columns).save, format="PNG", pnginfo=png_info(kind, label=ai_label)))
    return paths


def draw(cells: Sequence[Cell], columns: int = 1) -> Image.Image:
    """Return a sheet of some cells, row by row.

    Args:
        cells: What to show.
        columns: Cells that belong side by side.
    """
    per_cell = max(len(cell.pictures) for cell in cells)
    width, height = per_cell * EDGE + (per_cell - 1) * INNER, EDGE + INNER + LINES * LINE
    if not 1 < columns <= MAX_COLUMNS:
        columns = math.ceil(math.sqrt(len(cells) * 1.6 / per_cell))  # a page that is wider than high
    columns = min(len(cells), columns)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, cell in enumerate(cells):
        left, top = GAP + index % columns * (width + GAP), GAP + index // columns * (height + GAP)
        for place, path in enumerate(cell.pictures):
            _paste(sheet, path, left + place * (EDGE + INNER), top)
        for number, line in enumerate(_wrap(cell.caption, width, font)):
            canvas.text((left, top + EDGE + INNER + number * LINE), line, fill=INK, font=font)
    return sheet


def _paste(sheet: Image.Image, path: Path, left: int, top: int) -> None:
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    # Small pictures are enlarged by whole pixels: a blur would not be theirs.
    small = max(picture.size) * 2 <= EDGE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    scale = EDGE // max(picture.size) if small else EDGE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    sheet.paste(picture.resize(size, method), (left + (EDGE - size[0]) // 2, top + (EDGE - size[1]) // 2))


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a caption into lines that fit; what does not fit into the last one is cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    cut = len(lines) > LINES
    shown = lines[:LINES]
    for index, line in enumerate(shown):
        last, fitted = cut and index == LINES - 1, line
        while fitted and font.getlength(fitted + ("..." if last or fitted != line else "")) > width:
            fitted = fitted[:-1]
        shown[index] = fitted + ("..." if last or fitted != line else "")
    return shown
