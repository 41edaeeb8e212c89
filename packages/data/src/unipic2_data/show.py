"""Look at samples: a contact sheet as a PNG file, and a page with their pictures, texts and scores."""

from __future__ import annotations

import base64
import html
import io
import json
import textwrap
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.facts import scores_of
from unipic2_data.images import decode_rgb
from unipic2_data.manifest import Manifest
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Sample, texts_of
from unipic2_data.scan import scan

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from unipic2_data.sample import Image

__all__ = ["choose", "contact_sheet", "page"]

_THUMB, _PAGE_THUMB = 192, 384  # pixels, longer side
_PAD = 6
_LINES, _LINE_CHARS, _LINE_PIXELS = 4, 34, 13
_TEXT_FIELDS = ("captions", "instruction", "question", "answer", "caption")
_HIDDEN_FIELDS = {*_TEXT_FIELDS, "shapes"}
_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 2em; background: #fafafa }
article { background: #fff; border: 1px solid #ddd; padding: 1em; margin: 1em 0 }
figure { display: inline-block; margin: 0 1em 0 0; vertical-align: top } figcaption { color: #777 }
p { margin: .5em 0 } code { color: #555; overflow-wrap: anywhere }
"""


def choose(path: Path, *, split: str, kind: str | None = None, count: int = 48, seed: int = 0) -> list[Sample]:
    """Return some samples of a data set, drawn without repetition; the same seed draws the same.

    Args:
        path: The folder, or the manifest file in it.
        split: Split to draw from.
        kind: Kind to draw; None = all that the split has, by their shares.
        count: How many, at most.
        seed: Seed of the draw.

    Raises:
        DataError: If there are no such samples.
    """
    manifest = Manifest.load(path)
    kinds = [kind] if kind else list(manifest.kinds(split))
    shards = [shard for name in kinds for shard in manifest.shards_of(split, name)]
    total = sum(shard.samples for shard in shards)
    wanted = sorted(keyed_rng(seed, "show").permutation(total)[:count].tolist())
    chosen, first = [], 0
    for shard in shards:
        numbers = {number - first for number in wanted if first <= number < first + shard.samples}
        first += shard.samples
        if numbers:
            found = [scanned.sample for scanned in scan(manifest, shard, numbers)]
            chosen += [sample for sample in found if isinstance(sample, Sample)]
    return chosen


def contact_sheet(samples: list[Sample], file: Path) -> None:
    """Write a PNG file with the references, the target and the text of each sample.

    Args:
        samples: At least one.
        file: The file.
    """
    from PIL import Image, ImageDraw

    cells = [_cell(sample) for sample in samples]
    width, height = (max(cell.size[axis] for cell in cells) + _PAD for axis in (0, 1))
    columns = max(min(len(cells), 1536 // width), 1)
    sheet = Image.new("RGB", (columns * width + _PAD, -(-len(cells) // columns) * height + _PAD), "white")
    lines = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        left, top = _PAD + number % columns * width, _PAD + number // columns * height
        sheet.paste(cell, (left, top))
        lines.rectangle((left - 1, top - 1, left + width - _PAD, top + height - _PAD), outline="lightgray")
    sheet.save(file, "PNG")


def page(samples: list[Sample], file: Path, title: str) -> None:
    """Write an HTML file, complete in itself, with pictures, texts, scores and all other fields of each sample."""
    articles = "".join(_article(sample) for sample in samples)
    name = html.escape(title)
    text = f"<!doctype html><meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style><h1>{name}</h1>{articles}"
    file.write_text(text, encoding="utf-8", errors="replace")


def _pictures(sample: Sample) -> list[tuple[str, Image]]:
    references = [(f"reference {number}", image) for number, image in enumerate(sample.references)]
    return references + ([("target", sample.target)] if sample.target else [])


def _thumb(image: Image, size: int) -> tuple[PilImage | None, str]:
    """Return a copy of a picture that fits a size, small ones enlarged pixel by pixel; and its own size in words."""
    from PIL import Image as Pillow

    try:
        picture = Pillow.fromarray(decode_rgb(image.data))
    except DataError:
        return None, "unreadable"
    words = f"{picture.width} x {picture.height}"
    if (factor := _THUMB // max(picture.size)) > 1:
        return picture.resize((factor * picture.width, factor * picture.height), Pillow.Resampling.NEAREST), words
    picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
    return picture, words


def _cell(sample: Sample) -> PilImage:
    from PIL import Image, ImageDraw

    missing = Image.new("RGB", (_THUMB, _THUMB), "red")
    thumbs = [_thumb(image, _THUMB)[0] or missing for _, image in _pictures(sample)]
    slots = max(len(thumbs), 1)
    cell = Image.new("RGB", (slots * (_THUMB + _PAD), _THUMB * bool(thumbs) + _LINES * _LINE_PIXELS + _PAD), "white")
    for slot, thumb in enumerate(thumbs):
        cell.paste(thumb, (slot * (_THUMB + _PAD) + (_THUMB - thumb.width) // 2, (_THUMB - thumb.height) // 2))
    text = _text(sample) + "".join(f" [{name} {value:g}]" for name, value in scores_of(sample.meta).items())
    lines = textwrap.wrap(text, slots * _LINE_CHARS, max_lines=_LINES, placeholder=" ...")
    top = _THUMB * bool(thumbs) + _PAD // 2
    ImageDraw.Draw(cell).multiline_text((2, top), "\n".join(lines), fill="black", spacing=1, font_size=11)
    return cell


def _text(sample: Sample) -> str:
    try:
        text = texts_of(sample.kind, sample.meta, sample.key)[0]
    except DataError:
        return "(no text)"
    return f"{text} - {sample.meta.get('answer')}" if sample.kind == "qa" else text


def _article(sample: Sample) -> str:
    parts = [f"<h2>{html.escape(sample.key)}</h2>"]
    for role, image in _pictures(sample):
        thumb, size = _thumb(image, _PAGE_THUMB)
        shown = f"<img src='{_data_address(thumb)}' alt='{role}'>" if thumb else ""
        parts.append(f"<figure>{shown}<figcaption>{role}, {size}</figcaption></figure>")
    for name in _TEXT_FIELDS:
        values = sample.meta.get(name, [])
        texts = values if isinstance(values, list) else [values]
        parts += [f"<p><b>{name}</b> {html.escape(str(text))}</p>" for text in texts]
    scores = scores_of(sample.meta).items()
    parts += [f"<p><b>score {html.escape(name)}</b> {value:g}</p>" for name, value in scores]
    others = {name: value for name, value in sample.meta.items() if name not in {*_HIDDEN_FIELDS, "scores"}}
    parts.append(f"<p><code>{html.escape(json.dumps(others, ensure_ascii=False))}</code></p>")
    return f"<article>{''.join(parts)}</article>"


def _data_address(picture: PilImage) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
