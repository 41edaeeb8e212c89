"""Read the samples of a tar from front to back, past any damage."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.quarantine import Fault
from unipic2_data.sample import Sample, sample_from_tar, split_name
from unipic2_data.tars import EXTENDED, read_extended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["tar_samples"]

_BLOCK = 512
_END = bytes(_BLOCK)
_LARGEST_MEMBER = 2**30  # a header that says more is damage
_LARGEST_HEADER = 2**20  # of names in pax and GNU headers


def tar_samples(read: Callable[[int], bytes], where: str) -> Iterator[Sample | Fault]:
    """Yield the samples of a tar, and what is wrong where there is none.

    A sample is a run of members with one key. After a damaged header, reading goes on at the next sound one.

    Args:
        read: Returns so many of the following bytes, fewer only at the end.
        where: Name of the tar, for messages.

    Raises:
        DataError: If the bytes cannot be read; all samples before have been yielded.
    """
    key, members = None, b""
    for name, data in _members(read, where):
        own = None if name is None else (split_name(name) or (name,))[0]
        if own != key and members:
            yield _sample(members, f"{where}, sample {key}")
            members = b""
        if name is None:
            yield Fault("damaged tar", f"{data.decode()} Copy or make the tar again.")
        else:
            members += data
        key = own
    if members:
        yield _sample(members, f"{where}, sample {key}")


def _sample(members: bytes, where: str) -> Sample | Fault:
    try:
        return sample_from_tar(members, where)
    except DataError as error:
        return Fault("unreadable tar or JSON", str(error))


def _members(read: Callable[[int], bytes], where: str) -> Iterator[tuple[str | None, bytes]]:
    """Yield name and bytes (headers and padding included) of each file; None and a message where there is damage."""
    position, headers, name, size = 0, b"", None, None
    is_sound = True
    while block := read(_BLOCK):
        if block == _END:
            return
        at, position = position, position + len(block)
        if len(block) < _BLOCK:
            break
        info = _header(block)
        if info is None:
            if is_sound:
                yield None, f"{where}: damaged header at byte {at}.".encode()
            headers, name, size, is_sound = b"", None, None, False
            continue
        is_sound = True
        length = info.size if size is None or not info.isreg() else size
        padded = length + -length % _BLOCK if info.isreg() or info.type in EXTENDED else 0
        payload = read(padded)
        position += len(payload)
        if len(payload) < length:
            yield None, f"{where}: cut off at byte {position}.".encode()
            return
        headers += block + payload
        if info.type in EXTENDED:
            name, size = read_extended(info.type, payload[:length], name, size)
            continue
        if info.isreg():
            yield name or info.name, headers
        headers, name, size = b"", None, None
    yield None, f"{where}: ends at byte {position} without the mark of an end.".encode()


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return the header in a block, or None if it is damaged."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return None
    limit = _LARGEST_HEADER if info.type in EXTENDED else _LARGEST_MEMBER
    return info if 0 <= info.size <= limit else None
