"""A page with the images whose score changed, side by side: one HTML file that needs nothing else."""

import base64
import io
from html import escape
from pathlib import Path

from unipic2_evals.compare import Change, Comparison, Difference
from unipic2_evals.report import format_interval

__all__ = ["comparison_page"]

THUMBNAIL = 256
"""Longest side of an image on the page, in pixels."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
article { border-top: 1px solid #ccc; padding: .8rem 0; } h3 { margin: 0; font-size: 1rem; }
figure { display: inline-block; margin: .5rem 1rem 0 0; vertical-align: top; max-width: 16rem; }
figcaption { font-size: .85rem; white-space: pre-line; } .up { color: #1a7431; } .down { color: #a4161a; }
img { max-width: 100%; image-rendering: pixelated; } .none { width: 8rem; padding: 2rem; background: #eee; }
"""


def comparison_page(comparison: Comparison, names: tuple[str, str], most: int) -> str:
    """Return the page.

    Args:
        comparison: What to show.
        names: What to call the two runs.
        most: Items that are shown at most, those that changed most.

    Returns:
        HTML with all images inside.
    """
    first, second = (escape(name) for name in names)
    shown = comparison.changes[:most]
    up = sum(change.after > change.before for change in comparison.changes)
    rows = "".join(_row(difference) for difference in comparison.differences)
    head = f"<tr><th></th><th>A</th><th>B</th><th>B &minus; A [95 %]</th><th>pairs</th></tr>{rows}"
    title = f"{escape(comparison.bench)}: {first} and {second}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        f"<h1>{title}</h1>\n<p>A = {first}, B = {second}. Judge: {escape(comparison.judge)}; "
        f"{escape(comparison.rules)}. Paired item by item; intervals by bootstrap over prompts.</p>\n"
        f"<table>{head}</table>\n<h2>{len(comparison.changes)} items changed: {up} up, "
        f"{len(comparison.changes) - up} down; {len(shown)} shown</h2>\n{''.join(map(_article, shown))}</html>\n"
    )


def _row(row: Difference) -> str:
    cells = (f"{row.first:.3f}", f"{row.second:.3f}", format_interval(row.difference), row.items)
    return f"<tr><td>{escape(row.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _article(change: Change) -> str:
    first, second = change.first, change.second
    direction = "up" if change.after > change.before else "down"
    scores = f'<span class="{direction}">{change.before:.3g} &rarr; {change.after:.3g}</span>'
    sources = first["images"][:-1] or second["images"][:-1]
    figures = [_figure(Path(source), "source") for source in sources]
    for name, row, score in (("A", first, change.before), ("B", second, change.after)):
        caption = f"{name}: {score:.3g}" + (f"\n{row['reason']}" if row["reason"] else "")
        figures.append(_figure(Path(row["images"][-1]) if row["images"] else None, caption))
    heading = f"{escape(first['prompt'])} {scores}"
    where = " &middot; ".join(escape(text) for text in (first["key"], first["group"]) if text)
    return f"<article><h3>{heading}</h3><small>{where}</small><br>{''.join(figures)}</article>\n"


def _figure(path: Path | None, caption: str) -> str:
    image = '<div class="none">no image</div>'
    if path is not None and path.is_file():
        image = f'<img alt="{escape(path.name)}" src="{_thumbnail(path)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _thumbnail(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    # Small pictures stay exact; large ones would make the page heavy.
    image.save(buffer, "PNG" if max(image.size) <= THUMBNAIL // 2 else "WEBP")
    kind = "png" if max(image.size) <= THUMBNAIL // 2 else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
