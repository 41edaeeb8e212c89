"""Rows of benchmark files: TSV, JSONL or Parquet, with the pictures inside them or beside them."""

import base64
import binascii
import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipic2_evals.checks import json_lines
from unipic2_evals.pictures import Embedded, Picture

__all__ = ["is_absent", "picture_of", "table_rows"]

SUFFIXES = (".tsv", ".jsonl", ".parquet")


def table_rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Read all rows, each with a name for messages.

    Args:
        path: A ``.tsv`` with titles, a ``.jsonl``, or a ``.parquet`` (extra ``[parquet]``).

    Returns:
        Names and rows, in order.

    Raises:
        ValueError: If the file has another ending, or is malformed or empty.
    """
    if path.suffix == ".jsonl":
        rows = list(json_lines(path))
    elif path.suffix == ".tsv":
        rows = _tsv(path)
    elif path.suffix == ".parquet":
        rows = [(f"{path}, row {number}", row) for number, row in enumerate(_parquet(path), start=1)]
    else:
        message = f"{path}: expected a file that ends in one of {', '.join(SUFFIXES)}"
        raise ValueError(message)
    if not rows:
        message = f"{path}: expected rows, found none"
        raise ValueError(message)
    return rows


def is_absent(value: object) -> bool:
    """Tell whether a cell holds nothing: None, NaN or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def picture_of(value: object, folder: Path, name: str) -> Picture | Embedded:
    """Return the picture in a cell: bytes, a mapping with ``bytes`` (Hugging Face), base64, or a path below the folder.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return Embedded(value["bytes"])
    if isinstance(value, bytes):
        return Embedded(value)
    if isinstance(value, str):
        if len(value) < 1024 and (folder / value).is_file():
            return Picture(folder / value)
        try:
            return Embedded(base64.b64decode(value, validate=True))
        except binascii.Error:
            pass
    message = f"{name}: expected a picture as bytes, base64 or a path below {folder}, got {str(value)[:60]!r}"
    raise ValueError(message)


def _tsv(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    usual = csv.field_size_limit(sys.maxsize)  # a picture is one cell; the limit is that of the whole process
    try:
        return _cells(path)
    finally:
        csv.field_size_limit(usual)


def _cells(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        rows: list[tuple[str, Mapping[str, Any]]] = []
        for row in reader:
            name = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                message = f"{name}: expected {len(reader.fieldnames or ())} cells separated by tabs"
                raise ValueError(message)
            rows.append((name, row))
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        message = f"{path}: reading Parquet needs pyarrow: pip install 'unipic2-evals[parquet]'"
        raise ValueError(message) from None
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows
