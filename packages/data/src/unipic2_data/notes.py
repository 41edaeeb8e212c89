"""Notes about samples: JSON lines ``{"data": "...", "key": "...", ...}``, beside the data set that they speak of.

Duplicates, leaks, scores of a judge and new captions are notes; `unipic2_data.filtering` writes a data set that obeys
them. ``data`` is the identity of the data set (`data_id`); lines without it speak of every data set with the key.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.scan import key_hash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from unipic2_data.manifest import Manifest

__all__ = ["Notes", "append_notes", "data_id", "write_note"]

_BLOCK = 2**16
_FIELDS = [("hash", "<u8"), ("file", "<i4"), ("start", "<i8"), ("stop", "<i8")]


def data_id(manifest: Manifest) -> str:
    """Return the short identity of a data set that notes name."""
    return manifest.digest[:16]


class Notes:
    """The notes of some files by key. An index is kept in memory (28 bytes a note); lines are read when asked for.

    Args:
        files: Files of JSON lines. A last line that was cut off by a kill is left out.

    Raises:
        DataError: If another line is no note.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        rows = []
        for number, file in enumerate(self._files):
            rows += [(key_hash(note["key"]), number, start, stop) for note, start, stop in _read(file)]
        table = np.array(rows, _FIELDS)
        self._table = table[np.argsort(table["hash"], kind="stable")]

    def __len__(self) -> int:
        return len(self._table)

    def of(self, data: str, key: str) -> list[dict[str, Any]]:
        """Return the notes about a sample, in order."""
        wanted = key_hash(key)
        first, last = (
            np.searchsorted(self._table["hash"], wanted),
            np.searchsorted(self._table["hash"], wanted, "right"),
        )
        found = []
        for _, number, start, stop in self._table[first:last].tolist():
            with self._files[number].open("rb") as file:
                file.seek(start)
                note = json.loads(file.read(stop - start))
            if note["key"] == key and note.get("data", data) == data:
                found.append(note)
        return found


def append_notes(file: Path) -> TextIO:
    """Open a file of notes to append to it; a last line that was cut off by a kill is removed."""
    if file.exists():
        with file.open("rb") as opened:
            end = start = opened.seek(0, os.SEEK_END)
            newline = -1
            while start and newline < 0:
                start = max(start - _BLOCK, 0)
                opened.seek(start)
                newline = opened.read(min(_BLOCK, end - start)).rfind(b"\n")
        os.truncate(file, start + newline + 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("a", encoding="utf-8")


def write_note(file: TextIO, note: dict[str, Any]) -> None:
    """Write one line, at once."""
    file.write(json.dumps(note, ensure_ascii=False) + "\n")
    file.flush()


def _read(file: Path) -> list[tuple[dict[str, Any], int, int]]:
    """Return every note of a file with its first byte and the one after its last."""
    found, start = [], 0
    try:
        lines = file.open("rb")
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}."
        raise DataError(msg) from error
    with lines:
        for number, line in enumerate(lines, 1):
            try:
                note = json.loads(line)
                if not isinstance(note["key"], str):
                    raise TypeError
                found.append((note, start, start + len(line)))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if line.endswith(b"\n") and line.strip():
                    msg = f"{file}:{number} is no note; expected a JSON object with a key, found {line[:80]!r}."
                    raise DataError(msg) from error
            start += len(line)
    return found
