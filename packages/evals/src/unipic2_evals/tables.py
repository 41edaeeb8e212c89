"""Rows of benchmark files: TSV, JSONL or Parquet, with the pictures inside them or beside them."""

import base64
import binascii
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals.checks import json_lines
from unipic2_evals.pictures import Embedded, Picture

__all__ = ["is_absent", "picture_of", "table_rows"]

SUFFIXES = (".tsv", ".jsonl", ".parquet")


def table_rows(path: Path, columns: Sequence[str] | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Read all rows, each with a name for messages.

    Args:
        path: A ``.tsv`` with titles, a ``.jsonl``, a ``.parquet`` (extra ``[parquet]``), or a folder of ``.parquet``
            files, read in the order of their names.
        columns: Of Parquet, read only these; pictures in other columns may be large. None = all.

    Returns:
        Names and rows, in order.

    Raises:
        ValueError: If the file has another ending, or is malformed or empty.
    """
    if path.is_dir():
        rows = [row for part in sorted(path.glob("*.parquet")) for row in _parquet(part, columns)]
    elif path.suffix == ".jsonl":
        rows = list(json_lines(path))
    elif path.suffix == ".tsv":
        rows = _tsv(path)
    elif path.suffix == ".parquet":
        rows = _parquet(path, columns)
    else:
        message = f"{path}: expected a file that ends in one of {', '.join(SUFFIXES)}, or a folder of .parquet files"
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


def _parquet(path: Path, columns: Sequence[str] | None) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow.parquet
    except ImportError:
        message = f"{path}: reading Parquet needs pyarrow: pip install 'unipic2-evals[parquet]'"
        raise ValueError(message) from None
    found = pyarrow.parquet.read_schema(path).names
    absent = sorted(set(columns or ()) - set(found))
    if absent:
        message = f"{path}: no columns {absent} among {found}"
        raise ValueError(message)
    rows = pyarrow.parquet.read_table(path, columns=columns and list(columns)).to_pylist()
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]
