"""What an adapter yields: a record of foreign data with its pictures still where they are, or a reason to skip it.

An adapter maps fields and checks that they are there; the importer reads and converts pictures, splits, writes shards
and reports. A new format is a new module here and a branch in `unipic2_data.adapters.formats.open_source`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from unipic2_data.errors import DataError
from unipic2_data.tars import open_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Adapter", "Format", "Member", "Part", "Picture", "Record", "Skipped", "read_picture"]

Format = Literal["folder", "tar", "parquet", "json", "conversations", "index"]


@dataclass(frozen=True, slots=True)
class Member:
    """A picture within a tar: the tar (or its pieces), the name of the member, its first byte and length."""

    files: tuple[Path, ...]
    name: str
    start: int
    size: int


Picture = Path | Member | bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of a foreign data set.

    Attributes:
        name: Name within the source, unique; makes the key and appears in messages.
        group: Samples of one group (pictures of one target) never fall into different splits.
        kind: Kind of the canonical sample.
        meta: Its JSON fields.
        target: The target, or None.
        references: The references.
    """

    name: str
    group: str
    kind: str
    meta: dict[str, Any]
    target: Picture | None = None
    references: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that cannot be used: its name, and the reason, the same words for the same defect."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a source that is read on its own: the unit of parallel work and of resuming.

    Attributes:
        file: Number of the file among the adapter's.
        first: Number of the first row, for names.
        start: First byte, row group or entry.
        stop: One after the last of them.
    """

    file: int
    first: int
    start: int
    stop: int


class Adapter(Protocol):
    """A source in a foreign format. Adapters are pickled to the processes that read."""

    def parts(self) -> list[Part]:
        """Return the parts of the source, in order.

        Raises:
            DataError: If the source is not of this format, or cannot be read as a whole.
        """
        ...

    def read(self, part: Part, *, pictures: bool = True) -> Iterator[Record | Skipped]:
        """Yield the records of a part, in order.

        Args:
            part: One of `parts`.
            pictures: False if pictures that would have to be read right now may be left empty: only names are wanted.
        """
        ...


def read_picture(picture: Picture) -> bytes:
    """Return the bytes of a picture.

    Raises:
        DataError: The reason to skip its sample.
    """
    if isinstance(picture, bytes):
        data = picture
    elif isinstance(picture, Path):
        try:
            data = picture.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            msg = "picture is missing" if missing else "picture cannot be opened"
            raise DataError(msg) from error
    else:
        try:
            with open_pieces(picture.files) as file:
                file.seek(picture.start)
                data = file.read(picture.size)
        except OSError as error:
            msg = "picture cannot be opened"
            raise DataError(msg) from error
        if len(data) < picture.size:
            msg = "picture is cut off"
            raise DataError(msg)
    if not data:
        msg = "picture is empty"
        raise DataError(msg)
    return data
