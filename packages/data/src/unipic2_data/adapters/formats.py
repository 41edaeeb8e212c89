"""Formats by name: which adapter reads a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_data.adapters.conversations import Conversations, read_list
from unipic2_data.adapters.fields import Fields, Finder, Mapper, refuse_urls
from unipic2_data.adapters.folder import FolderSource
from unipic2_data.adapters.places import FolderPlace, TarPlace, index_tars
from unipic2_data.adapters.table import RowFile, RowSource, find_row_files
from unipic2_data.adapters.tar import TarSource
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from unipic2_data.adapters.record import Adapter, Format

__all__ = ["default_mappers", "guess_format", "open_source"]

_EDITS = Fields(
    kind="edit",
    target="target",
    references=("source",),
    text=("instruction",),
    caption="caption",
    task="task",
    licence="licence",
    scores=("scores",),
)
_SUFFIXES = {
    "parquet": (".parquet",),
    "json": (".jsonl", ".json", ".txt"),
    "conversations": (".jsonl", ".json"),
    "index": (".parquet", ".jsonl", ".json"),
}
_GUESSES: dict[str, Format] = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".tar": "tar"}
_COLUMNS = {".csv": ",", ".tsv": "\t", ".txt": "\n"}  # suffix of a list -> what stands between its columns
_HEAD = 2**16  # characters of a list that are looked at
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # as a Path keeps it, with one slash


def guess_format(source: Path) -> Format:
    """Return the format of a source that is imported without naming one: that of a file by its suffix, or a folder."""
    return "folder" if source.is_dir() else _GUESSES.get(source.suffix, "folder")


def default_mappers(format: Format) -> tuple[Mapper, ...]:
    """Return what rows become if neither fields nor a preset are named.

    Tars: a picture with a ``txt``. Conversations: as they are. All others: edits with the fields source, target,
    instruction and, if they are there, caption, task, licence and scores.
    """
    if format == "tar":
        return (Fields(kind="t2i", target="image", text=("txt",)),)
    return (Conversations(),) if format == "conversations" else (_EDITS,)


def open_source(
    source: Path,
    format: Format,
    mappers: tuple[Mapper, ...],
    *,
    image_root: Path | None = None,
    image_tars: Path | None = None,
    index: Path,
) -> tuple[Adapter, list[str]]:
    """Open a source.

    Args:
        source: File or folder.
        format: What it is.
        mappers: What its rows become.
        image_root: Folder that names in rows are relative to; default: the folder of the file, or the source itself.
        image_tars: Format "index": tar, or folder with the tars that hold the pictures; default: the source.
        index: File without suffix, for the index of these tars.

    Returns:
        The adapter, and what is damaged in tars of pictures.

    Raises:
        DataError: If the source is not of this format, or only says where pictures are.
    """
    _refuse_addresses(source)
    if not source.exists():
        msg = f"cannot import {source}: it does not exist; expected a folder of pictures, or a file of rows or samples."
        raise DataError(msg)
    if format == "folder":
        return FolderSource(source, mappers, image_root), []
    if format == "tar":
        return TarSource(source, mappers), []
    damages: list[str] = []
    if format == "conversations" and source.suffix == ".txt":
        files = [RowFile(rows, rows.name, FolderPlace(root)) for rows, root in read_list(source)]
    else:
        root = source if source.is_dir() else source.parent
        place: Finder = FolderPlace(image_root or root)
        if format == "index":
            index.parent.mkdir(parents=True, exist_ok=True)
            damages = index_tars(image_tars or root, index)
            place = TarPlace(index)
        files = [RowFile(file, name, place) for file, name in find_row_files(source, _SUFFIXES[format])]
    return RowSource(files, mappers), damages


def _refuse_addresses(source: Path) -> None:
    """Refuse an address, and a list of addresses in lines or columns (.txt, .csv, .tsv)."""
    if _ADDRESS.match(str(source)) and not source.exists():
        msg = (
            f"{source} is an address, and files on a disk are imported. Fetch it first (the pictures of a list of "
            "addresses with img2dataset, which writes tars), then import that."
        )
        raise DataError(msg)
    if source.suffix not in _COLUMNS or not source.is_file():
        return
    with source.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line in file.read(_HEAD).splitlines() if line.strip()][:2]
    head, *rows = [[word.strip(" \"'") for word in line.split(_COLUMNS[source.suffix])] for line in lines] or [[]]
    for word in head:  # a list without names of columns
        refuse_urls(source.name, {"url": word})
    for row in rows if source.suffix != ".txt" else []:
        refuse_urls(source.name, dict(zip(head, row, strict=False)))
