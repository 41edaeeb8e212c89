"""What an adapter yields: a record of foreign data with its images still where they are, or a reason to skip it.

An adapter is a function ``read(...) -> Iterator[Record | Skipped]``. It maps fields and checks that they are there; the
importer reads and converts images, splits, writes shards and reports. A new format is a new module here and a branch in
`unipic2_data.importer.read_source`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Record", "Skipped"]


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of a foreign data set.

    Attributes:
        name: Name within the source, unique; makes the key and appears in messages.
        group: Samples of one group (pictures of one target) never fall into different splits.
        kind: Kind of the canonical sample.
        meta: Its JSON fields.
        target: File of the target.
        references: Files of the references.
    """

    name: str
    group: str
    kind: str
    meta: dict[str, Any]
    target: Path
    references: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that cannot be used: its name, and the reason, the same words for the same defect."""

    name: str
    reason: str
