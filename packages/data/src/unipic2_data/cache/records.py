"""Records by key on disk: written in parts by any number of processes, read by binary search in one sorted index.

A folder holds::

    header.json        what the records are: encoder, dtype, shapes
    parts/NAME.bin     records one after the other
    parts/NAME.npy     uint64 (4, n): both halves of each record's key, its first byte and its length
    index.npy          uint64 (5, N): the same of all parts, sorted by key, and the part's number
    parts.json         names of the parts, in the order of their numbers

A part is written under a temporary name, its table last: it is there as a whole or not at all. The index is made of
the finished parts and replaced in one step, so readers never see half of it; they map it into memory, and all processes
of a machine share those pages.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.randomness import keyed_hash
from unipic2_data.workspace import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["PartWriter", "RecordReader", "RecordWriter", "record_key"]

FORMAT = 1
_HEADER, _INDEX, _NAMES = "header.json", "index.npy", "parts.json"
_OPEN_PARTS = 128


def record_key(*parts: str | int) -> tuple[int, int]:
    """Return a key of 128 bits, as two halves, that depends on every part."""
    digest = keyed_hash(*parts)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


class PartWriter:
    """One part that is being written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._rows: list[tuple[int, int, int, int]] = []
        self._position = 0

    def add(self, key: tuple[int, int], data: bytes) -> None:
        """Append a record."""
        self._rows.append((*key, self._position, len(data)))
        self._file.write(data)
        self._position += len(data)

    @property
    def table(self) -> np.ndarray:
        """uint64 (4, n): both halves of each key, first byte, length."""
        return np.array(self._rows, np.uint64).reshape(-1, 4).T


class RecordWriter:
    """Writes parts into a folder, and its index once they are all there.

    Args:
        folder: Where; made if need be.
        header: What the records are. A folder that holds others is refused.
        what: What they are called in messages ("latents").

    Raises:
        DataError: If the folder holds records of another encoder, transform or dtype.
    """

    def __init__(self, folder: Path, header: dict[str, Any], what: str) -> None:
        self.folder = folder
        header = json.loads(json.dumps({"format": FORMAT, **header}))
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        before = read_json(folder / _HEADER)
        if before is None:
            write_json(folder / _HEADER, header)
        elif before != header:
            different = [name for name in {**header, **before} if before.get(name) != header.get(name)]
            found = "; ".join(f"{name}: {before.get(name)} there, {header.get(name)} now" for name in different)
            msg = (
                f"{folder} holds {what} that were made differently ({found}). Name another folder, or remove this one."
            )
            raise DataError(msg)

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self._table(name).is_file()

    @contextmanager
    def part(self, name: str) -> Iterator[PartWriter]:
        """Give a part to fill; it gets its name if all goes well, and is removed if not."""
        data, table = self.folder / "parts" / f"{name}.bin", self._table(name)
        temporary = [path.with_name(f".{path.name}.partial-{os.getpid()}") for path in (data, table)]
        try:
            with temporary[0].open("wb") as file:
                part = PartWriter(file)
                yield part
            with temporary[1].open("wb") as file:
                np.save(file, part.table)
            temporary[0].replace(data)
            temporary[1].replace(table)
        finally:
            for path in temporary:
                path.unlink(missing_ok=True)

    def finish(self, names: Iterable[str]) -> bool:
        """Write the index if the named parts, and so all that were asked for, are there.

        Any process may call this; the last one to finish its parts does the work. Parts of earlier builds stay in the
        index.

        Returns:
            Whether the index was written.
        """
        if not all(self.has(name) for name in names):
            return False
        # Parts keep their numbers for ever: a reader that has opened an older index still finds its records.
        known = read_json(self.folder / _NAMES) or []
        there = {path.stem for path in (self.folder / "parts").glob("*.npy") if not path.name.startswith(".")}
        known += sorted(there - set(known))
        write_json(self.folder / _NAMES, known)
        tables = [np.zeros((5, 0), np.uint64)]
        for number, name in enumerate(known):
            table = np.load(self._table(name))
            tables.append(np.concatenate([table, np.full((1, table.shape[1]), number, np.uint64)]))
        index = np.concatenate(tables, axis=1)
        temporary = self.folder / f".{_INDEX}.partial-{os.getpid()}"
        with temporary.open("wb") as file:
            np.save(file, index[:, np.lexsort((index[1], index[0]))])
        temporary.replace(self.folder / _INDEX)
        return True

    def _table(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.npy"


class RecordReader:
    """Reads records by key.

    Args:
        folder: What `RecordWriter` wrote.
        what: What the records are called in messages ("latents").

    Raises:
        DataError: If there are none, or they are not finished.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self._what = folder, what
        self.header: dict[str, Any] = read_json(folder / _HEADER) or {}
        if self.header.get("format") != FORMAT or not (folder / _INDEX).is_file():
            state = "not finished" if self.header.get("format") == FORMAT else "not there, or of another version"
            msg = f"the {what} in {folder} are {state}. Run the command that encodes them (again: it goes on)."
            raise DataError(msg)
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_what": self._what, "header": self.header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def __len__(self) -> int:
        return self._index.shape[1]

    def __contains__(self, key: tuple[int, int]) -> bool:
        return self._find(key) is not None

    def read(self, key: tuple[int, int], name: str) -> bytes:
        """Return a record.

        Args:
            key: Its key.
            name: What it belongs to, for the message.

        Raises:
            DataError: If there is none, or its part is gone or cut off.
        """
        place = self._find(key)
        if place is None:
            msg = (
                f"{name}: the cache {self.folder} has no {self._what} for it; it is new, or its picture, text or size "
                "changed since. Encode again: only what is missing is done."
            )
            raise DataError(msg)
        start, length, number = self._index[2:, place].tolist()
        data = os.pread(self._file(self._names[number]), length, start)
        if len(data) != length:
            msg = f"{self.folder / 'parts' / self._names[number]}.bin is cut off. Remove it and its .npy; encode again."
            raise DataError(msg)
        return data

    def _open(self) -> None:
        self._index = np.load(self.folder / _INDEX, mmap_mode="r")
        self._names: list[str] = read_json(self.folder / _NAMES)
        self._files: OrderedDict[str, int] = OrderedDict()

    def _find(self, key: tuple[int, int]) -> int | None:
        place = int(np.searchsorted(self._index[0], np.uint64(key[0])))
        while place < len(self) and self._index[0, place] == key[0]:
            if self._index[1, place] == key[1]:
                return place
            place += 1
        return None

    def _file(self, name: str) -> int:
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        if len(self._files) >= _OPEN_PARTS:
            os.close(self._files.popitem(last=False)[1])
        try:
            self._files[name] = os.open(self.folder / "parts" / f"{name}.bin", os.O_RDONLY)
        except OSError as error:
            msg = f"cannot read {self.folder / 'parts' / name}.bin: {error.strerror}. Copy it, or encode again."
            raise DataError(msg) from error
        return self._files[name]
