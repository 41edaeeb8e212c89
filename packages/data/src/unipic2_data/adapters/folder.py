"""A folder of pictures with captions beside them: ``a.jpg`` and ``a.txt``, in any depth of subfolders.

Every line of the text file that is not blank is one caption; training picks one of them at each visit. Files of rows
directly in the folder (``*.jsonl``) are read as well, and the pictures that they use need no caption.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_data.adapters.places import FolderPlace
from unipic2_data.adapters.record import Part, Record, Skipped
from unipic2_data.adapters.table import RowFile, RowSource
from unipic2_data.errors import DataError
from unipic2_data.sample import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unipic2_data.adapters.fields import Mapper

__all__ = ["FolderSource"]

_PART_FILES = 4096
_CAPTIONS = -1  # number of the "file" of parts of pictures with captions


class FolderSource:
    """A folder of pictures with captions, and files of rows directly in it.

    Args:
        folder: The folder. Hidden files and folders are left alone.
        mappers: What the rows of ``*.jsonl`` become.
        image_root: Folder that names in rows are relative to; default: the folder.

    Raises:
        DataError: If there is no such folder.
    """

    def __init__(self, folder: Path, mappers: Sequence[Mapper], image_root: Path | None = None) -> None:
        if not folder.is_dir():
            msg = (
                f"cannot import {folder}: expected a folder of pictures and captions, or a file of rows (.jsonl, ...)."
            )
            raise DataError(msg)
        self._folder = folder
        place = FolderPlace(image_root or folder)
        self._rows = RowSource([RowFile(file, file.name, place) for file in sorted(folder.glob("*.jsonl"))], mappers)
        self._row_parts = self._rows.parts()
        files = sorted(file for file in folder.rglob("*") if not _hidden(file, folder))
        used = self._used()
        images = [file for file in files if file.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES]
        captioned = {image.with_suffix(".txt") for image in images}
        texts = {file for file in files if file.suffix == ".txt"}
        self._images = [image for image in images if image.with_suffix(".txt") in texts or image.resolve() not in used]
        self._orphans = sorted(texts - captioned)

    def parts(self) -> list[Part]:
        """Return the parts of the rows, then those of the captions: see `Adapter`."""
        count = len(self._images) + len(self._orphans)
        starts = range(0, count, _PART_FILES)
        return self._row_parts + [Part(_CAPTIONS, 0, start, min(start + _PART_FILES, count)) for start in starts]

    def read(self, part: Part, *, pictures: bool = True) -> Iterator[Record | Skipped]:
        """Yield the records of a part: see `Adapter`."""
        if part.file != _CAPTIONS:
            yield from self._rows.read(part, pictures=pictures)
            return
        for image in self._images[part.start : part.stop]:
            yield self._captioned(image)
        start, stop = (max(place - len(self._images), 0) for place in (part.start, part.stop))
        for text in self._orphans[start:stop]:
            yield Skipped(text.relative_to(self._folder).as_posix(), "caption without a picture")

    def _captioned(self, image: Path) -> Record | Skipped:
        name = image.relative_to(self._folder).as_posix()
        try:
            text = image.with_suffix(".txt").read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return Skipped(name, "no caption file beside it")
        except OSError:
            return Skipped(name, "caption cannot be opened")
        except UnicodeDecodeError:
            return Skipped(name, "caption is not UTF-8")
        captions = [line.strip() for line in text.splitlines() if line.strip()]
        return Record(name, name, "t2i", {"captions": captions}, image) if captions else Skipped(name, "empty caption")

    def _used(self) -> set[Path]:
        """Return the pictures that the rows use."""
        used: set[Path] = set()
        for part in self._row_parts:
            for found in self._rows.read(part):
                if isinstance(found, Record):
                    used.update(file.resolve() for file in (found.target, *found.references) if isinstance(file, Path))
        return used


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
