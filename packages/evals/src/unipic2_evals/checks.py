"""Checks of what scorers are given: each names the input, what was expected and what came instead.

Replies of models and rows of files reach the scorers unread, so a wrong type is found here and not as an
``AttributeError`` in the middle of a rule.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["as_field", "as_json", "as_mapping", "as_name", "as_number", "as_rows", "as_text", "json_lines"]

SHOWN = 80
"""Characters of a wrong value in a message."""


def as_text(value: object, name: str, mend: str = "") -> str:
    """Return a text as it is, or say what it is instead; ``mend`` says what to do about it."""
    if isinstance(value, str):
        return value
    message = f"{name}: expected text, got {_shown(value)}{mend and '; ' + mend}"
    raise ValueError(message)


def as_number(value: object, name: str) -> float:
    """Return a finite number (numpy's too) as a Python one: an int stays an int."""
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= sys.float_info.max:
        return item
    message = f"{name}: expected a finite number, got {_shown(value)}"
    raise ValueError(message)


def as_rows(value: object, name: str, least: int = 1) -> Sequence[Any]:
    """Return a list with at least ``least`` entries."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) >= least:
        return value
    message = f"{name}: expected a list with {least} or more entries, got {_shown(value)}"
    raise ValueError(message)


def as_mapping(value: object, name: str) -> Mapping[Any, Any]:
    """Return a mapping as it is; it may be empty."""
    if isinstance(value, Mapping):
        return value
    message = f"{name}: expected a mapping, got {_shown(value)}"
    raise ValueError(message)


def as_field(row: object, key: str, name: str) -> Any:
    """Return one field of a mapping that has it."""
    fields = as_mapping(row, name)
    if key in fields:
        return fields[key]
    message = f"{name}: no {key!r} among its fields {sorted(map(str, fields))}"
    raise ValueError(message)


def as_name(value: object, name: str) -> str:
    """Return a text that is one part of a path: not empty, no separators, not a way up."""
    text = as_text(value, name)
    if text and text not in {".", ".."} and not set(text) & set("/\\\0"):
        return text
    message = f"{name}: expected the name of one file or folder, without separators, got {text!r}"
    raise ValueError(message)


def as_json(text: str, name: str) -> Any:
    """Return what a JSON text holds."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{name}: no JSON: {error}"
        raise ValueError(message) from None


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a JSONL file, each with a name for messages; empty lines are skipped."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            name = f"{path}, line {number}"
            if line.strip():
                yield name, as_mapping(as_json(line, name), name)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
