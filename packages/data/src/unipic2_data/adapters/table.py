"""Sources that are files of rows: JSON lines, JSON lists, Parquet, lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_data.adapters.fields import Finder, Mapper, refuse_urls
from unipic2_data.adapters.record import Part, Record, Skipped
from unipic2_data.adapters.rows import read_rows, row_parts
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["RowFile", "RowSource", "find_row_files"]


@dataclass(frozen=True)
class RowFile:
    """A file of rows, its name in the source, and where the pictures are that it names."""

    file: Path
    name: str
    finder: Finder


class RowSource:
    """Files of rows.

    Args:
        files: The files.
        mappers: What rows become: each row goes through every mapper whose fields it has.
    """

    def __init__(self, files: Sequence[RowFile], mappers: Sequence[Mapper]) -> None:
        self._files, self._mappers = tuple(files), tuple(mappers)
        self._columns = {column for mapper in mappers for column in mapper.columns}

    def parts(self) -> list[Part]:
        """Return the parts of all files, and refuse what cannot be read row by row: see `Adapter`."""
        parts = [part for number, one in enumerate(self._files) for part in row_parts(one.file, number)]
        first: set[int] = set()
        for part in parts:
            if part.file not in first:
                first.add(part.file)
                self._check(part)
        return parts

    def read(self, part: Part, *, pictures: bool = True) -> Iterator[Record | Skipped]:
        """Yield the records of a part: see `Adapter`."""
        one = self._files[part.file]
        for found in read_rows(one.file, one.name, part, self._columns, pictures=pictures):
            if isinstance(found, Skipped):
                yield found
                continue
            name, row = found
            mappers = [mapper for mapper in self._mappers if mapper.applies(row)]
            if not mappers:
                yield Skipped(name, f"fields missing: {', '.join(sorted(self._columns - row.keys()))}")
            for number, mapper in enumerate(mappers):
                yield from mapper.records(name if number == 0 else f"{name}+{number}", row, one.finder)

    def _check(self, part: Part) -> None:
        """Look at the first rows of a file: a list of addresses, or a layout with other names, is refused at once."""
        one = self._files[part.file]
        other: dict[str, Any] | None = None
        for found in read_rows(one.file, one.name, part, None, pictures=False):
            if isinstance(found, Skipped):
                continue
            row = found[1]
            if any(mapper.applies(row) for mapper in self._mappers):
                refuse_urls(one.name, {key: row[key] for key in self._columns & row.keys()})
                return
            other = other or row
        if other is not None:
            refuse_urls(one.name, other)
            msg = (
                f"rows of {one.file} have the fields {', '.join(other)}; expected {', '.join(sorted(self._columns))}. "
                "Say with --fields which field holds what, or name a --preset."
            )
            raise DataError(msg)


def find_row_files(source: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Return the files of rows of a source, each with its name: the source itself, or all in a folder.

    Raises:
        DataError: If there are none.
    """
    if source.is_file() and source.suffix in suffixes:
        return [(source, source.name)]
    files = sorted(file for file in source.rglob("*") if file.suffix in suffixes and file.is_file())
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(source).parts)]
    if not shown:
        msg = f"cannot import {source}: expected a file {', '.join(suffixes)}, or a folder with some."
        raise DataError(msg)
    return [(file, file.relative_to(source).as_posix()) for file in shown]
