"""Walk through tars of others: every file's name and place, without reading the files.

All that is written in the wild is read: USTAR, GNU and pax headers, long names, files above 8 GiB, and tars that were
cut into pieces for upload (``x.tar.split.000``, ``x.tar.split.001``, ...; ``x.tar.000``; ``x.tar.partaa``). Compressed
tars are refused: nothing in them can be read without reading all that comes before.
"""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, BinaryIO

__all__ = ["EXTENDED", "TarMember", "find_tars", "open_pieces", "read_extended", "tar_members"]

_BLOCK = 512
_READ = 2**20  # bytes that are looked through at once, past damage
_LONGEST_HEADER = 2**20  # of names in pax and GNU headers
_USTAR = b"ustar"
_PIECE = re.compile(r"(.+\.tar)\.(?:split\.|part)?([0-9]+|[a-z]{2,})")
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_NO_CONTENT = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
EXTENDED = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstandard", b"PK": "zip"}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar: its name, the first byte of its headers, and of its content, and the length of the content."""

    name: str
    header: int
    start: int
    size: int

    @property
    def stop(self) -> int:
        """First byte after the content and its padding."""
        return self.start + self.size + -self.size % _BLOCK


def find_tars(place: Path) -> list[tuple[Path, ...]]:
    """Return the tars at a place, in the order of their names; each is one file or its pieces.

    Args:
        place: A tar, one of its pieces, or a folder with tars in any depth.

    Raises:
        DataError: If there are none, or pieces are missing.
    """
    if not place.is_dir() and (piece := _PIECE.fullmatch(place.name)):
        files = sorted(place.parent.glob(f"{piece[1]}.*"))
    else:
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
    tars: dict[Path, list[tuple[int, str, Path]]] = {}
    for file in files:
        piece = _PIECE.fullmatch(file.name)
        if (piece or file.suffix == ".tar") and file.is_file():
            number = piece[2] if piece else ""
            tars.setdefault(file.with_name(piece[1]) if piece else file, []).append((len(number), number, file))
    if not tars:
        msg = f"no tars at {place}. Expected *.tar, or the pieces of one (*.tar.split.000, ...); unpack *.tar.gz first."
        raise DataError(msg)
    for tar, pieces in tars.items():
        numbers = sorted(int(number) for _, number, _ in pieces if number.isdecimal())
        if numbers and (numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(pieces)))):
            msg = f"pieces of {tar} are missing: found numbers {', '.join(map(str, numbers))}. Fetch the others."
            raise DataError(msg)
    return [tuple(file for *_, file in sorted(pieces)) for _, pieces in sorted(tars.items())]


def open_pieces(files: Sequence[Path]) -> BinaryIO:
    """Open a file that is cut into pieces, or a whole one, for reading."""
    return files[0].open("rb") if len(files) == 1 else io.BufferedReader(_Pieces(files))


def tar_members(file: BinaryIO, where: str) -> Iterator[TarMember]:
    """Yield the files of a tar, in order; links, folders and devices are left out.

    After a damaged header, reading goes on at the next sound one.

    Args:
        file: The tar, open at its beginning.
        where: Its name, for messages.

    Raises:
        DataError: If a header is damaged, or the tar ends early. All other members have been yielded, the last of them
            perhaps shorter than it should be.
    """
    length = file.seek(0, io.SEEK_END)
    position, first, name, size = 0, None, None, None
    damage: _DamageError | None = None
    while True:
        try:
            info = _header(file, position, length, where)
        except _DamageError as error:
            damage = damage or error
            first, name, size = None, None, None
            if (following := _next_header(file, position + _BLOCK)) is None:
                break
            position = following
            continue
        except DataError as error:
            raise damage or error from None
        if info is None:
            break
        first = position if first is None else first
        start = position + _BLOCK
        if info.isreg() or info.type in _NO_CONTENT:
            member = TarMember(name or info.name, first, start, info.size if size is None else size)
            if info.isreg():
                yield member
            position = member.stop if info.isreg() else start
            first, name, size = None, None, None
            continue
        if info.type in EXTENDED:
            name, size = read_extended(info.type, file.read(info.size), name, size)
        position = start + info.size + -info.size % _BLOCK
    if damage is not None:
        raise damage


class _DamageError(DataError):
    """A header that cannot be read, while others after it perhaps can."""


def _header(file: BinaryIO, position: int, length: int, where: str) -> tarfile.TarInfo | None:
    """Return the header at a position, or None at the end of the tar.

    Raises:
        _DamageError: If it is damaged.
        DataError: If the tar ends before it, or is packed.
    """
    file.seek(min(position, length))
    block = file.read(_BLOCK)
    if position == 0 and (packer := _MAGIC.get(block[:2])) and block[257:262] != _USTAR:
        msg = f"{where} is packed with {packer}; unpack it first (its files cannot be read one by one)."
        raise DataError(msg)
    if len(block) < _BLOCK:
        msg = f"{where}: the tar is cut off at byte {length}, expected a header at byte {position}."
        raise DataError(msg)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except (tarfile.HeaderError, ValueError) as error:
        msg = f"{where}: damaged tar header at byte {position} ({error})."
        raise _DamageError(msg) from error
    if info.type in EXTENDED and info.size > _LONGEST_HEADER:
        msg = f"{where}: damaged tar header at byte {position} ({info.size} bytes of name)."
        raise _DamageError(msg)
    return info


def _next_header(file: BinaryIO, position: int) -> int | None:
    """Return the position of the next sound header from a position on, or None if there is none."""
    file.seek(position)
    while piece := file.read(_READ):
        for at in range(0, len(piece), _BLOCK):
            block = piece[at : at + _BLOCK]
            if block[257:262] != _USTAR:
                continue
            with contextlib.suppress(tarfile.HeaderError, ValueError):
                tarfile.TarInfo.frombuf(block, "utf-8", "replace")
                return position + at
        position += len(piece)
    return None


def read_extended(kind: bytes, payload: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Return name and size that an extended header gives the member after it.

    Args:
        kind: Type of the header, pax or GNU.
        payload: Its content.
        name: Name that an earlier header gave, or None.
        size: Size that an earlier header gave, or None.
    """
    if kind == tarfile.GNUTYPE_LONGNAME:
        return payload.rstrip(b"\0").decode("utf-8", "replace"), size
    position = 0
    while record := _PAX_RECORD.match(payload, position):
        stop = position + int(record[1])
        value = payload[record.end() : stop - 1].decode("utf-8", "replace")
        if record[2] == b"path":
            name = value
        elif record[2] == b"size" and value.isdecimal():
            size = int(value)
        if stop <= record.end():
            break
        position = stop
    return name, size


class _Pieces(io.RawIOBase):
    """Files one after the other, as one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = [file.open("rb") for file in files]
        sizes = [file.seek(0, io.SEEK_END) for file in self._files]
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._files):
            return 0
        file = self._files[number]
        file.seek(self._position - self._starts[number])
        count = file.readinto(memoryview(buffer)[: self._starts[number + 1] - self._position])
        self._position += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
