"""Edits as lines of JSON: ``{"source": "before.jpg", "target": "after.jpg", "instruction": "..."}``.

File names are relative to the image root. ``caption`` (of the target), ``task``, ``licence`` and ``scores`` are kept if
they are there; other fields are not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from unipic2_data.adapters.record import Record, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["read_jsonl"]

_REQUIRED = ("source", "target", "instruction")
_KEPT = ("caption", "task", "licence", "scores")


def read_jsonl(file: Path, image_root: Path) -> Iterator[Record | Skipped]:
    """Yield one edit record for each line, in order; blank lines are left out.

    Args:
        file: The JSON lines, UTF-8.
        image_root: Folder that file names are relative to.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _record(f"{file.name}:{number}", line, image_root)


def _record(name: str, line: bytes, image_root: Path) -> Record | Skipped:
    try:
        fields: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Skipped(name, "line is not UTF-8")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return Skipped(name, "line is not a JSON object")
    for required in _REQUIRED:
        value = fields.get(required)
        if not isinstance(value, str):
            return Skipped(name, f"field '{required}' is missing or not a text")
        if not value.strip():
            return Skipped(name, "empty instruction" if required == "instruction" else f"field '{required}' is empty")
    meta = {"instruction": fields["instruction"].strip(), **{key: fields[key] for key in _KEPT if key in fields}}
    return Record(name, fields["target"], "edit", meta, image_root / fields["target"], [image_root / fields["source"]])
