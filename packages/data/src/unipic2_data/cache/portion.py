"""What a cache is made of, and what making it did: shared by the builds of latents and of text.

Any number of processes may work on a cache at once, together or one after the other: parts are made of the samples
alone, a rank takes every so-manieth, and a part that is there is left as it is. So a build that was killed goes on when
it is run again, with any number of ranks, and a data set that grew or got other captions costs only what is new.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unipic2_data.cache.latents import RoundingError
from unipic2_data.cache.records import RecordReader
from unipic2_data.errors import DataError
from unipic2_data.sources import StreamSource
from unipic2_data.store import SampleStore

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from unipic2_data.pool import Pool

__all__ = ["Portion", "Report", "finished_records"]

_SHOWN = 5  # left out samples that the report names


@dataclass(frozen=True)
class Portion:
    """Samples of one source and kind, by number, that training sees at one size (H, W) in pixels."""

    store: SampleStore
    kind: str
    size: tuple[int, int]
    indices: np.ndarray | range

    @staticmethod
    def of(pool: Pool, size: tuple[int, int]) -> list[Portion]:
        """Return all that a run trains on.

        Args:
            pool: Its samples.
            size: (H, W) of the batches where the samples have no buckets.

        Raises:
            DataError: If a source is streamed.
        """
        found = []
        for cell, members in zip(pool.cells, pool.members, strict=True):
            source = pool.sources[cell.source]
            if isinstance(source, StreamSource):
                msg = f"{source.name} is streamed, and a cache needs a manifest: `unipic2-data index FOLDER` makes one."
                raise DataError(msg)
            assert cell.count is not None
            store = SampleStore.of(source, pool.split)
            found.append(
                Portion(store, cell.kind, cell.size or size, range(cell.count) if members is None else members)
            )
        return found


@dataclass
class Report:
    """What one process did: records written, samples left out and why, and the error of storing them."""

    what: str
    written: int = 0
    kept: int = 0
    skipped: list[str] = field(default_factory=list)
    error: RoundingError = field(default_factory=RoundingError)

    def __str__(self) -> str:
        lines = [f"{self.what}: wrote {self.written} records, {self.kept} were there"]
        if self.written:
            lines[0] += f"; relative error of storing them {self.error.relative:.2e}"
        if self.skipped:
            more = f", and {len(self.skipped) - _SHOWN} more" if len(self.skipped) > _SHOWN else ""
            lines.append(f"  {len(self.skipped)} damaged samples left out: {'; '.join(self.skipped[:_SHOWN])}{more}")
        return "\n".join(lines)


def finished_records(folder: Path, what: str) -> RecordReader | None:
    """Return a reader of what earlier builds finished, or None."""
    return RecordReader(folder, what) if (folder / "index.npy").is_file() else None
