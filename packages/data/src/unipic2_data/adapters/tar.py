"""Tars of samples, as webdataset and img2dataset write them: members with the same key are one sample.

Members of a sample become the fields of a row: text members (``txt``, ...) as text, the fields of a ``json`` member,
and pictures by their name after the key (``KEY.jpg`` -> "jpg", ``KEY.source.png`` -> "source"); a picture that is the
only one of its sample is also called "image".
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from unipic2_data.adapters.record import Member, Part, Record, Skipped
from unipic2_data.errors import DataError
from unipic2_data.sample import IMAGE_SUFFIXES, split_name
from unipic2_data.tars import TarMember, find_tars, open_pieces, tar_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from unipic2_data.adapters.fields import Mapper

__all__ = ["TarSource"]

_TEXT_BYTES = 2**24  # no caption or JSON member is longer


class TarSource:
    """Tars of samples, one part each.

    Args:
        source: A tar, or a folder with tars.
        mappers: What samples become: each goes through every mapper whose fields it has.
    """

    def __init__(self, source: Path, mappers: Sequence[Mapper]) -> None:
        self._tars, self._mappers = find_tars(source), tuple(mappers)
        root = source if source.is_dir() else source.parent
        self._columns = {column for mapper in mappers for column in mapper.columns}
        self._names = [pieces[0].relative_to(root).with_suffix("").as_posix() for pieces in self._tars]

    def parts(self) -> list[Part]:
        """Return one part for each tar: see `Adapter`."""
        sizes = [sum(file.stat().st_size for file in pieces) for pieces in self._tars]
        return [Part(number, 0, 0, size) for number, size in enumerate(sizes)]

    def read(self, part: Part, *, pictures: bool = True) -> Iterator[Record | Skipped]:  # noqa: ARG002 - never read here
        """Yield the records of a tar, and at its end what is damaged in it: see `Adapter`."""
        pieces, tar = self._tars[part.file], self._names[part.file]
        with open_pieces(pieces) as file:
            samples, problems = _samples(file, tar)
            for key, members in samples.items():
                name = f"{tar}/{key}"
                try:
                    row = _row(file, pieces, members, self._columns)
                except DataError as error:
                    yield Skipped(name, str(error))
                    continue
                yield from self._records(name, row)
        yield from problems

    def _records(self, name: str, row: dict[str, Any]) -> Iterator[Record | Skipped]:
        mappers = [mapper for mapper in self._mappers if mapper.applies(row)]
        if not mappers:
            missing = ", ".join(sorted(self._columns - row.keys()))
            yield Skipped(name, f"members or fields missing: {missing}")
        for number, mapper in enumerate(mappers):
            yield from mapper.records(name if number == 0 else f"{name}+{number}", row, _Nowhere())


class _Nowhere:
    """Pictures of tars are members, never names."""

    def find(self, name: str) -> None:  # noqa: ARG002
        return None


def _samples(file: BinaryIO, tar: str) -> tuple[dict[str, dict[str, TarMember]], list[Skipped]]:
    """Return the members of each sample by field, and what is wrong with the tar."""
    samples: dict[str, dict[str, TarMember]] = {}
    problems = []
    try:
        for member in tar_members(file, tar):
            found = split_name(member.name)
            if found is None or PurePosixPath(member.name).name.startswith("."):
                continue
            key, field = found[0], found[1].lower()
            fields = samples.setdefault(key, {})
            if field in fields:
                problems.append(Skipped(f"{tar}/{member.name}", "member appears twice"))
            fields.setdefault(field, member)
    except DataError as error:
        reason = "tar is cut off" if "cut off" in str(error) else "tar is damaged"
        problems.append(Skipped(f"{tar} ({str(error).rpartition(': ')[2]})", reason))
    return samples, problems


def _row(file: BinaryIO, pieces: tuple[Path, ...], members: dict[str, TarMember], columns: set[str]) -> dict[str, Any]:
    """Return the fields of a sample; of members that are no pictures, those that are wanted.

    Raises:
        DataError: The reason to skip the sample.
    """
    row: dict[str, Any] = {}
    images = []
    for name, member in members.items():
        role, _, suffix = name.rpartition(".")
        if suffix in IMAGE_SUFFIXES:
            images.append(Member(pieces, member.name, member.start, member.size))
            row[role or name] = images[-1]
        elif name == "json":
            row = _json(_text(file, member, name), name) | row
        elif name in columns:
            row[name] = _text(file, member, name)
    if len(images) == 1:
        row["image"] = images[0]
    return row


def _text(file: BinaryIO, member: TarMember, name: str) -> str:
    file.seek(member.start)
    data = file.read(min(member.size, _TEXT_BYTES))
    if len(data) < member.size:
        msg = f"member '{name}' is {'cut off' if member.size <= _TEXT_BYTES else 'too long'}"
        raise DataError(msg)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"member '{name}' is not UTF-8"
        raise DataError(msg) from error


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        msg = f"member '{name}' is not a JSON object"
        raise DataError(msg)
    return fields
