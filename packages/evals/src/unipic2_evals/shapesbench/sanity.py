"""Rows of the table that say whether the benchmark itself is in order, scored as if a model had made them.

===================  ===========================================================  ======================
row                  what is scored                                               what it should give
===================  ===========================================================  ======================
copy-source          the source of the edit                                       1
oracle               the right picture, the right letters                         1.000, 5
oracle through VAE   ``vae.png``: the target through the model's autoencoder      the model's ceiling
text-only generator  the target of the next edit of that type: nothing of this    1, hardly more
                     edit's source is in it
random               noise; a letter drawn for each rotation                      0, 1
===================  ===========================================================  ======================
"""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from unipic2_evals.pictures import Embedded, Picture, Request
from unipic2_evals.runs import Item, Scored
from unipic2_evals.shapesbench.layout import LETTERS, SuiteItem, output_path
from unipic2_evals.shapesbench.rules import Rules, read_detections, read_truth, right_letters

__all__ = ["COPY", "NOISE", "ORACLE", "ROWS", "TEXT_ONLY", "VAE", "sanity_items", "score_sanity", "value_name"]

COPY, ORACLE, VAE, TEXT_ONLY, NOISE = "copy-source", "oracle", "oracle through VAE", "text-only generator", "random"
ROWS = {"t2i": (ORACLE, VAE, NOISE), "edit": (COPY, ORACLE, VAE, TEXT_ONLY, NOISE), "qa": (ORACLE, NOISE)}
"""By kind of item."""
NUM_NOISE = 16
"""Different pictures of noise; a detector need not look at more."""


def value_name(kind: str, row: str) -> str:
    """Return the kind of value of a row."""
    return f"sanity, {kind}: {row}"


def sanity_items(folder: Path, suite: Sequence[SuiteItem]) -> list[Item]:
    """Return an item for each one of the suite that is not held out."""
    chosen = [item for item in suite if not item.meta["shapes"].get("axis")]
    following = _following(chosen)
    return [_item(folder, item, following[item.key], number) for number, item in enumerate(chosen)]


def score_sanity(rules: Rules, folder: Path, item: Item, answers: Sequence[Any]) -> Scored:
    """Score the rows of an item."""
    one: SuiteItem = item.about["suite"]
    if one.kind == "qa":
        rng = np.random.default_rng([item.about["number"], 0])
        said = {ORACLE: right_letters(one), NOISE: [LETTERS[n] for n in rng.integers(0, len(LETTERS), 4)]}
        values = {row: rules.answered(one, replies)["circular"] for row, replies in said.items()}
        return Scored({value_name("qa", row): value for row, value in values.items()})
    truth = read_truth(folder, one) if one.kind == "edit" else None
    values = {}
    for row, request, answer in zip(item.about["rows"], item.requests, answers, strict=True):
        pixels, detected = request.pictures[0].pixels(), read_detections(answer, f"detections of {item.key}")
        if truth is not None:
            values[row] = rules.edited(pixels, detected, truth).item
        else:
            values[row] = rules.generated(one, pixels, detected)[0]["correct"]
    return Scored({value_name(one.kind, row): value for row, value in values.items()})


def _following(items: Sequence[SuiteItem]) -> dict[str, SuiteItem]:
    """Return for each item the next one of its kind and category, after the last the first."""
    groups: dict[tuple[str, str], list[SuiteItem]] = {}
    for item in items:
        groups.setdefault((item.kind, item.meta["task"]), []).append(item)
    return {item.key: group[(n + 1) % len(group)] for group in groups.values() for n, item in enumerate(group)}


def _item(folder: Path, one: SuiteItem, other: SuiteItem, number: int) -> Item:
    shown = dict(_pictures(folder, one, other, number)) if one.kind != "qa" else {}
    about = {"kind": "sanity", "suite": one, "rows": tuple(shown), "number": number}
    requests = tuple(Request("detections", (picture,)) for picture in shown.values())
    return Item(f"{one.key}/sanity", one.text, one.key, one.meta["task"], (), requests, about=about)


def _pictures(folder: Path, one: SuiteItem, other: SuiteItem, number: int) -> Iterator[tuple[str, Picture | Embedded]]:
    paths = output_path(one.kind, one.key)
    if one.kind == "edit":
        yield COPY, Picture(folder / paths["source"])
        if other.key != one.key:
            yield TEXT_ONLY, Picture(folder / output_path(other.kind, other.key)["target"])
    yield ORACLE, Picture(folder / paths["target"])
    if (folder / paths["vae"]).is_file():
        yield VAE, Picture(folder / paths["vae"])
    yield NOISE, Embedded(_noise(one.meta["height"], one.meta["width"], number % NUM_NOISE))


@lru_cache(maxsize=4 * NUM_NOISE)
def _noise(height: int, width: int, number: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng([number, 1]).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
