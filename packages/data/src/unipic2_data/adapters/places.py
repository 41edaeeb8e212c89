"""Where the pictures are that rows name: below a folder, or in tars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.adapters.record import Member, Picture
from unipic2_data.errors import DataError
from unipic2_data.randomness import keyed_hash
from unipic2_data.tars import find_tars, open_pieces, tar_members

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FolderPlace", "TarPlace", "index_tars"]

_FIELDS = [("hash", "<u8"), ("tar", "<i8"), ("start", "<i8"), ("size", "<i8")]


class FolderPlace:
    """Pictures below a folder. A picture that is not there is noticed when it is read."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, name: str) -> Picture:
        """Return the file of a picture."""
        return self._root / name


class TarPlace:
    """Pictures in tars, by the index that `index_tars` wrote; read with a memory map, so processes share it.

    Args:
        index: The index without suffix.
    """

    def __init__(self, index: Path) -> None:
        self._index = index
        self._table: np.ndarray | None = None
        self._tars: list[tuple[Path, ...]] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # each process maps the file itself

    def find(self, name: str) -> Picture | None:
        """Return the member of a picture, or None."""
        if self._table is None:
            self._table = np.load(self._index.with_suffix(".npy"), mmap_mode="r")
            document = json.loads(self._index.with_suffix(".json").read_text(encoding="utf-8"))
            self._tars = [tuple(map(Path, pieces)) for pieces in document["tars"]]
        wanted = _hash(name)
        row = int(np.searchsorted(self._table["hash"], wanted))
        if row == len(self._table) or self._table["hash"][row] != wanted:
            return None
        _, tar, start, size = self._table[row].tolist()
        return Member(self._tars[tar], name, start, size)


def index_tars(place: Path, index: Path, progress: Callable[[int], object] | None = None) -> list[str]:
    """Write the index of all files in the tars at a place, and return what is damaged in them.

    Args:
        place: See `unipic2_data.tars.find_tars`.
        index: File to write, without suffix: ``.npy`` (hash of the name, number of the tar, first byte, length) and
            ``.json`` (the tars). Nothing is done if they are there.
        progress: Called with the number of files found.

    Raises:
        DataError: If there are no tars.
    """
    document_file = index.with_suffix(".json")
    if document_file.is_file():
        return json.loads(document_file.read_text(encoding="utf-8"))["damages"]
    tars, damages = find_tars(place), []
    tables = []
    for number, pieces in enumerate(tars):
        rows = []
        with open_pieces(pieces) as file:
            try:
                for member in tar_members(file, pieces[0].name):
                    rows.append((_hash(member.name), number, member.start, member.size))
                    if progress:
                        progress(1)
            except DataError as error:
                damages.append(str(error))
        tables.append(np.array(rows, _FIELDS))
    table = np.concatenate(tables)
    table = table[np.argsort(table["hash"], kind="stable")]
    with index.with_suffix(".npy").open("wb") as file:
        np.save(file, table)
    document = {"tars": [[str(file.absolute()) for file in pieces] for pieces in tars], "damages": damages}
    temporary = document_file.with_suffix(".partial")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(document_file)
    return damages


def _hash(name: str) -> int:
    return int.from_bytes(keyed_hash(name.removeprefix("./"))[:8], "little")
