"""Go through the samples of a shard in order, as a whole or their JSON alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import Sample, document_from_tar, sample_from_tar

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from unipic2_data.manifest import Manifest, Shard

__all__ = ["Scanned", "key_hash", "scan", "scan_documents"]

_FIRST_READ = 2**14  # bytes that hold the JSON of nearly every sample


@dataclass(frozen=True, slots=True)
class Scanned:
    """A sample of a shard: its split and number, its members' bytes, and what they say, or why they are unreadable."""

    split: str
    number: int
    members: bytes
    sample: Sample | DataError


def scan(manifest: Manifest, shard: Shard, numbers: Container[int] | None = None) -> Iterator[Scanned]:
    """Yield every sample of a shard that its index lists, readable or not.

    Args:
        manifest: The data set.
        shard: One of its shards.
        numbers: Numbers of the wanted samples; None = all.

    Raises:
        DataError: If the shard or its index cannot be read at all.
    """
    offsets = manifest.offsets(shard).tolist()
    file = _open(manifest, shard)
    try:
        for number, (start, length) in enumerate(offsets):
            if numbers is not None and number not in numbers:
                continue
            members = os.pread(file, length, start) if length > 0 and start >= 0 else b""
            where = f"{shard.path}, sample {number}"
            if len(members) < length:
                yield Scanned(shard.split, number, members, DataError(f"{where}: cut off"))
                continue
            try:
                yield Scanned(shard.split, number, members, sample_from_tar(members, where))
            except DataError as error:
                yield Scanned(shard.split, number, members, error)
    finally:
        os.close(file)


def scan_documents(manifest: Manifest, shard: Shard) -> Iterator[tuple[str, dict[str, Any]] | DataError]:
    """Yield key and JSON of every sample of a shard, or why it is unreadable.

    Pictures are only read if the JSON does not come first.

    Raises:
        DataError: If the shard or its index cannot be read at all.
    """
    offsets = manifest.offsets(shard).tolist()
    file = _open(manifest, shard)
    try:
        for number, (start, length) in enumerate(offsets):
            where = f"{manifest.root / shard.path}, sample {number}"
            is_inside = length > 0 and start >= 0
            found = document_from_tar(os.pread(file, min(length, _FIRST_READ), start)) if is_inside else None
            if found is not None:
                yield found
                continue
            try:
                sample = sample_from_tar(os.pread(file, length, start) if is_inside else b"", where)
                yield sample.key, sample.meta
            except DataError as error:
                yield error
    finally:
        os.close(file)


def key_hash(key: str) -> int:
    """Return a number for a key, to compare the keys of large data sets; never 0."""
    return int.from_bytes(keyed_hash(key)[:8], "big") or 1


def _open(manifest: Manifest, shard: Shard) -> int:
    try:
        return os.open(manifest.root / shard.path, os.O_RDONLY)
    except OSError as error:
        msg = f"cannot read shard {manifest.root / shard.path}: {error.strerror}. Copy or make it again."
        raise DataError(msg) from error
