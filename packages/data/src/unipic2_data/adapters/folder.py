"""A folder of pictures with captions beside them: ``a.jpg`` and ``a.txt``, in any depth of subfolders.

Every line of the text file that is not blank is one caption; training picks one of them at each visit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unipic2_data.adapters.record import Record, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "read_folder"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def read_folder(folder: Path, ignore: frozenset[Path] = frozenset()) -> Iterator[Record | Skipped]:
    """Yield one text-to-image record for each picture, in the order of their names.

    Args:
        folder: The folder. Hidden files and folders are left alone.
        ignore: Pictures that need no caption, because something else uses them.
    """
    files = sorted(file for file in folder.rglob("*") if not _hidden(file, folder))
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    captioned = {image.with_suffix(".txt") for image in images}
    for image in images:
        text = image.with_suffix(".txt")
        name = image.relative_to(folder).as_posix()
        if not text.is_file():
            if image.resolve() not in ignore:
                yield Skipped(name, "no caption file beside it")
            continue
        try:
            captions = [line.strip() for line in text.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError:
            yield Skipped(name, "caption is not UTF-8")
            continue
        if not captions:
            yield Skipped(name, "empty caption")
            continue
        yield Record(name, name, "t2i", {"captions": captions}, image)
    for text in files:
        if text.suffix == ".txt" and text not in captioned:
            yield Skipped(text.relative_to(folder).as_posix(), "caption without a picture")


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
