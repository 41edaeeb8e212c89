"""The output layout of GEditBench v2 (ZhangqiJiang07/GEditBench_v2, arXiv 2603.28547).

The benchmark is a folder with ``metadata.jsonl`` (``key``, ``instruction`` and ``source_image``, a path below the
folder) and is read from where the user keeps it. Models are compared in pairs from a candidates gallery::

    GALLERY/
        metadata.jsonl                        an item a line: key, instruction, source_image, candidates
        MODEL/KEY.png                         the edited images of each model
        MODEL_generation_results.jsonl        what one model has made: key, image_path, instruction

A model joins the comparison when each item lists its image among its ``candidates``; the official tool writes that to
a copy, ``metadata_TIMESTAMP.jsonl``. It identifies comparisons by ``KEY_pair_A_vs_B``, so neither "_vs_" nor "_pair_"
may be part of a model's name.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from unipic2_evals.checks import as_field, as_name, as_rows, as_text, json_lines

__all__ = ["Item", "OutputPath", "merge_candidates", "output_path", "read_items", "read_results", "write_results"]

SEPARATORS = ("_pair_", "_vs_")


class Item(NamedTuple):
    """One edit to make."""

    key: str
    instruction: str
    source_image: Path


class OutputPath(TypedDict):
    """Where one model's work is kept, below the gallery."""

    edited: str
    results: str


def output_path(model: str, key: str) -> OutputPath:
    """Return where one edited image and the list of a model's images are kept, below the gallery.

    Args:
        model: Name of the model's folder.
        key: The item's key.

    Returns:
        Relative paths.

    Raises:
        ValueError: If a part can not be a name of a file, or the model's name can not be told apart in a pair.
    """
    if any(separator in as_name(model, "model") for separator in SEPARATORS):
        message = f"model: {SEPARATORS} separate the parts of a comparison's key, choose another name: {model!r}"
        raise ValueError(message)
    return {"edited": f"{model}/{as_name(key, 'key')}.png", "results": f"{model}_generation_results.jsonl"}


def read_items(folder: Path) -> list[Item]:
    """Read the benchmark.

    Args:
        folder: The benchmark's folder, with ``metadata.jsonl``.

    Returns:
        The edits in order (1,200 in the published one); source images below the folder.

    Raises:
        ValueError: If a line is malformed, or a key occurs twice.
    """
    path = folder / "metadata.jsonl"
    rows = _rows(path)
    return [Item(key, _text(row, "instruction", path), folder / _text(row, "source_image", path)) for key, row in rows]


def write_results(gallery: Path, model: str, items: Sequence[Item]) -> Path:
    """Write the list of a model's images, for the items whose image exists.

    Args:
        gallery: Candidates gallery with the images at `output_path`.
        model: Name of the model's folder.
        items: The benchmark.

    Returns:
        The file that was written.

    Raises:
        ValueError: If none of the images exists.
    """
    images = {item.key: gallery / output_path(model, item.key)["edited"] for item in items}
    done = [item for item in items if images[item.key].exists()]
    if not done:
        message = f"{gallery / model}: none of {len(items)} images is there, expected KEY.png"
        raise ValueError(message)
    path = gallery / output_path(model, done[0].key)["results"]
    rows = (
        {"key": item.key, "image_path": str(images[item.key].resolve()), "instruction": item.instruction}
        for item in done
    )
    _write(path, rows)
    return path


def read_results(path: Path) -> dict[str, Path]:
    """Read the list of a model's images.

    Args:
        path: What `write_results` or the official tool has written.

    Returns:
        Images by key.

    Raises:
        ValueError: If a line is malformed, or a key occurs twice.
    """
    return {key: Path(_text(row, "image_path", path)) for key, row in _rows(path)}


def merge_candidates(metadata: Path, merged: Path, model: str, images: Mapping[str, Path]) -> None:
    """Enter a model's images into a copy of the gallery's metadata; those of other models stay.

    Args:
        metadata: The gallery's ``metadata.jsonl``.
        merged: The copy, in the same folder (officially ``metadata_TIMESTAMP.jsonl``).
        model: Name of the model; an earlier entry of that name is replaced.
        images: Images by key; written relative to the folder.

    Raises:
        ValueError: If a line is malformed, or an image belongs to no item.
    """
    rows = dict(_rows(metadata))
    unknown = sorted(set(images) - set(rows))
    if unknown:
        message = f"{metadata}: no items {unknown[:5]} ({len(unknown)} of {len(images)} images); another version?"
        raise ValueError(message)
    for key, row in rows.items():
        others = as_rows(row.get("candidates", []), f"candidates of {key!r} in {metadata}", least=0)
        kept = [other for other in others if as_field(other, "model", f"candidate of {key!r}") != model]
        own = [{"model": model, "image": os.path.relpath(images[key], metadata.parent)}] if key in images else []
        rows[key] = {**row, "candidates": [*kept, *own]}
    _write(merged, rows.values())


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, row in json_lines(path):
        key = as_name(as_field(row, "key", name), f"key in {name}")
        if key in rows:
            message = f"{name}: key {key!r} occurs twice"
            raise ValueError(message)
        rows[key] = dict(row)
    return list(rows.items())


def _text(row: Mapping[str, Any], field: str, path: Path) -> str:
    name = f"{row['key']!r} in {path}"
    return as_text(as_field(row, field, name), f"{field} of {name}")


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
