"""From a foreign record to a canonical sample: pictures are read, checked and made plain."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from unipic2_data.adapters.record import Member, Picture, Record, read_picture
from unipic2_data.errors import DataError
from unipic2_data.images import plain_picture
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import Image, Sample, lacks
from unipic2_data.transform import same_aspect

__all__ = ["Conversion", "convert"]

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True)
class Conversion:
    """What applies to every record of a source.

    Attributes:
        source: Name of the source, kept in every sample.
        licence: Licence of samples that name none themselves.
        max_references: Records with more references are skipped.
    """

    source: str
    licence: str | None = None
    max_references: int = 1


def convert(record: Record, settings: Conversion) -> Sample:
    """Return a record as a sample.

    Raises:
        DataError: The reason to skip the record.
    """
    if len(record.references) > settings.max_references:
        msg = f"more than {settings.max_references} reference{'s' if settings.max_references > 1 else ''}"
        raise DataError(msg)
    references = [_read(picture) for picture in record.references]
    meta: dict[str, Any] = {"source": settings.source}
    meta |= ({"licence": settings.licence} if settings.licence else {}) | record.meta
    target = None
    if record.target is not None:
        target, (height, width) = _read(record.target)
        if not all(same_aspect(size, (height, width)) for _, size in references):
            msg = "source and target have different aspect ratios"
            raise DataError(msg)
        meta |= {"height": height, "width": width}
    if references:
        meta["reference_sizes"] = [{"height": height, "width": width} for _, (height, width) in references]
    sample = Sample(_key(record, settings.source), record.kind, meta, target, [image for image, _ in references])
    try:
        json.dumps(meta, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        msg = "text cannot be written as UTF-8"
        raise DataError(msg) from error
    if missing := lacks(sample):
        raise DataError(missing)
    return sample


def _read(picture: Picture) -> tuple[Image, tuple[int, int]]:
    """Return a picture ready to store, and its height and width."""
    data = read_picture(picture)
    try:
        plain, suffix, size = plain_picture(data)
    except DataError as error:
        from PIL.Image import DecompressionBombError

        bomb = isinstance(error.__cause__, DecompressionBombError)
        msg = "picture is larger than any that is read" if bomb else "picture is unreadable"
        raise DataError(msg) from error
    return Image(plain, suffix), size


def _key(record: Record, source: str) -> str:
    name = record.target.name if isinstance(record.target, (Path, Member)) else record.name
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(name).stem)[:40].strip("-") or "sample"
    return f"{stem}-{keyed_hash(source, record.name).hex()[:16]}"
