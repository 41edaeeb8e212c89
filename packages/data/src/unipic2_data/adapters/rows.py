"""Files of rows, read in pieces: JSON lines, a list in a JSON file, Parquet, plain lines of text.

A piece of a JSON file is a range of bytes, found once by looking for the ends of objects: a list of gigabytes is never
parsed as a whole. A piece of a Parquet file is a range of row groups.
"""

from __future__ import annotations

import json
import mmap
import re
from typing import TYPE_CHECKING, Any

from unipic2_data.adapters.record import Part, Skipped
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pyarrow import DataType

__all__ = ["read_rows", "row_parts"]

_PART_ROWS = 4096
_PART_BYTES = 2**30  # of Parquet row groups, unpacked
_BATCH_ROWS = 32  # of Parquet, held in memory at once
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
_LIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*(.)", re.DOTALL)

Row = tuple[str, dict[str, Any]]


def row_parts(file: Path, number: int) -> list[Part]:
    """Return the pieces of a file of rows.

    Args:
        file: The file; its suffix says what it is.
        number: Number of the file, for the parts.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        if file.suffix == ".parquet":
            return _parquet_parts(file, number)
        if file.stat().st_size == 0:
            return []
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            ends = _objects(data, file) if file.suffix == ".json" else _lines(data)
            return list(_cut(number, ends))
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror or error}."
        raise DataError(msg) from error


def read_rows(
    file: Path, name: str, part: Part, columns: Iterable[str] | None, *, pictures: bool = True
) -> Iterator[Row | Skipped]:
    """Yield the rows of a part, each with its name.

    Args:
        file: The file.
        name: Its name in the source: rows are called NAME:NUMBER.
        part: One of its parts.
        columns: Fields that are wanted; those of Parquet files that are not named are not read. None: all.
        pictures: False: fields of Parquet files that hold bytes become one byte, and are not read.
    """
    if file.suffix == ".parquet":
        yield from _read_parquet(file, name, part, columns, pictures=pictures)
        return
    with file.open("rb") as opened:
        opened.seek(part.start)
        data = opened.read(part.stop - part.start)
    if file.suffix == ".json":
        pieces: Iterable[bytes] = [data[start:stop] for start, stop in _ranges(data, 0)]
    else:
        pieces = data.split(b"\n")[: -1 if data.endswith(b"\n") else None]
    read = _text_row if file.suffix == ".txt" else _json_row
    for row, piece in enumerate(pieces, part.first):
        if piece.strip():
            yield read(f"{name}:{row}", piece)


def _json_row(name: str, data: bytes) -> Row | Skipped:
    try:
        fields = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Skipped(name, "line is not UTF-8")
    except (ValueError, RecursionError):
        fields = None
    return (name, fields) if isinstance(fields, dict) else Skipped(name, "line is not a JSON object")


def _text_row(name: str, data: bytes) -> Row | Skipped:
    try:
        return name, {"text": data.decode("utf-8-sig").strip()}
    except UnicodeDecodeError:
        return Skipped(name, "line is not UTF-8")


def _cut(number: int, rows: Iterable[tuple[int, int]]) -> Iterator[Part]:
    """Group the ranges of rows into parts."""
    first, start, stop, count = 1, 0, 0, 0
    for begin, end in rows:
        start = begin if count == 0 else start
        stop, count = end, count + 1
        if count == _PART_ROWS:
            yield Part(number, first, start, stop)
            first, count = first + count, 0
    if count:
        yield Part(number, first, start, stop)


def _lines(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start) + 1 or len(data)
        yield start, stop
        start = stop


def _objects(data: mmap.mmap, file: Path) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the objects in a list; JSON lines that are called .json are read as well."""
    first = _LIST.match(data)
    if first is None or first[1] not in b"[{":
        msg = f"{file} is not a list of JSON objects; expected it to begin with '[' or '{{'."
        raise DataError(msg)
    yield from _ranges(data, 1 if first[1] == b"[" else 0)


def _ranges(data: bytes | mmap.mmap, level: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the objects at a level of nesting."""
    depth, start = 0, None
    for token in _TOKEN.finditer(data):
        kind = token[0]
        if kind in {b"{", b"["}:
            if depth == level and kind == b"{":
                start = token.start()
            depth += 1
        elif kind in {b"}", b"]"}:
            depth = max(depth - 1, level)  # a closing bracket too many must not hide what follows
            if depth == level and start is not None:
                yield start, token.end()
                start = None
    if start is not None:
        yield start, len(data)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        msg = "reading Parquet needs pyarrow: pip install 'unipic2-data[parquet]'."
        raise DataError(msg) from error
    return pyarrow.parquet


def _open_parquet(file: Path) -> Any:
    parquet = _parquet()
    try:
        return parquet.ParquetFile(file, buffer_size=2**20)
    except (OSError, ValueError) as error:  # what pyarrow raises for bytes that are no Parquet
        msg = f"{file} is not a readable Parquet file: {error}. Fetch it again."
        raise DataError(msg) from error


def _parquet_parts(file: Path, number: int) -> list[Part]:
    with _open_parquet(file) as opened:
        groups = [opened.metadata.row_group(index) for index in range(opened.metadata.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    parts, first, start, rows, size = [], 1, 0, 0, 0
    for index, (group_rows, group_size) in enumerate(sizes):
        if rows and (rows + group_rows > _PART_ROWS or size + group_size > _PART_BYTES):
            parts.append(Part(number, first, start, index))
            first, start, rows, size = first + rows, index, 0, 0
        rows, size = rows + group_rows, size + group_size
    return [*parts, Part(number, first, start, len(sizes))] if rows else parts


def _read_parquet(
    file: Path, name: str, part: Part, columns: Iterable[str] | None, *, pictures: bool
) -> Iterator[Row | Skipped]:
    row = part.first
    with _open_parquet(file) as opened:
        schema = opened.schema_arrow
        wanted = set(schema.names if columns is None else columns)
        present = [field.name for field in schema if field.name in wanted]
        if not present:
            msg = f"{file} has none of the fields {', '.join(sorted(wanted))}; it has {', '.join(schema.names)}."
            raise DataError(msg)
        unread = {} if pictures else {key: b"\0" for key in present if _holds_bytes(schema.field(key).type)}
        read = [key for key in present if key not in unread] or present[:1]
        for group in range(part.start, part.stop):
            stop = row + opened.metadata.row_group(group).num_rows
            try:
                for batch in opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=read):
                    for values in batch.to_pylist():
                        yield f"{name}:{row}", values | unread
                        row += 1
            except (OSError, ValueError):
                yield Skipped(f"{name}:{row}-{stop - 1}", "rows of Parquet are unreadable")
            row = stop


def _holds_bytes(kind: DataType) -> bool:
    from pyarrow import types

    nested: Callable[[DataType], bool] = types.is_nested
    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    return nested(kind) and any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
