"""All samples of a run's sources that are wanted, sorted into cells of one source, kind and size.

This is all that is known before the first shard is opened: it comes from manifests, and from the tables of samples
where sizes or filters ask for them. What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.buckets import BucketSizes
from unipic2_data.errors import DataError
from unipic2_data.filtering import Filter
from unipic2_data.order import FULL_SHUFFLE
from unipic2_data.plan import Cell
from unipic2_data.sources import DataSource, Source, StreamSource, open_source
from unipic2_data.storage import LocalFiles

if TYPE_CHECKING:
    from unipic2_data.manifest import Manifest
    from unipic2_data.patience import Patience

__all__ = ["Pool"]

_STREAM_EPOCH = 2**20  # samples that an epoch of the mix takes for a stream, whose number nobody knows
_SEQUENTIAL_WINDOW = 4  # shards of a command that are shuffled together
_NO_BUCKET = {-1: "smaller than the lowest resolution", -2: "size is not known"}


@dataclass
class Pool:
    """What there is to train on.

    Attributes:
        sources: The sources, open.
        split: The split that is read of each.
        cells: The samples by source, kind and size.
        members: For each cell, the numbers of its samples among those of the source's split and kind; None = all.
        skipped: Samples that are left out, by reason.
    """

    sources: list[DataSource | StreamSource]
    split: str
    cells: list[Cell] = field(default_factory=list)
    members: list[np.ndarray | None] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(
        sources: Sequence[Source],
        sizes: BucketSizes | None = None,
        *,
        split: str = "train",
        patience: Patience | None = None,
        opened: Sequence[DataSource | StreamSource] | None = None,
    ) -> Pool:
        """Open sources and sort their samples.

        Args:
            sources: What to train on.
            sizes: Sizes of batches; None = the loader's one size.
            split: Split to train on.
            patience: How patiently servers and commands are tried.
            opened: The sources, if they are open already.

        Raises:
            DataError: If a source is missing, or weights are given to some sources only.
        """
        pool = Pool(list(opened or [open_source(source, patience) for source in sources]), split)
        for number, (source, one) in enumerate(zip(sources, pool.sources, strict=True)):
            if isinstance(one, StreamSource):
                pool._add_stream(number, one, sizes)
            else:
                pool._add_data(number, one, source.wanted, sizes)
        pool._weigh([source.weight for source in sources])
        return pool

    @staticmethod
    def whole(manifest: Manifest, split: str = "train", sizes: BucketSizes | None = None) -> Pool:
        """Return all samples of a split of one data set on a disk."""
        files = LocalFiles(manifest.root)
        source = DataSource(str(manifest.root), manifest, files, files)
        pool = Pool([source], split)
        pool._add_data(0, source, Filter(), sizes)
        return pool

    def __str__(self) -> str:
        lines = []
        for cell in self.cells:
            shape = f" of {cell.size[1]}x{cell.size[0]} pixels" if cell.size else ""
            count = "a stream of" if cell.count is None else f"{cell.count}"
            lines.append(f"{self.sources[cell.source].name}: {count} {cell.kind}{shape}")
        lines += [f"left out: {count} x {reason}" for reason, count in self.skipped.most_common()]
        return "\n".join(lines)

    def _add_data(self, number: int, source: DataSource, wanted: Filter, sizes: BucketSizes | None) -> None:
        """Add the cells of a data set, one for each kind and size that it has."""
        table = source.table() if sizes or wanted != Filter() else None
        first = np.cumsum([0, *(shard.samples for shard in source.manifest.shards)])
        for kind in source.manifest.kinds(self.split):
            shards = [
                shard for shard, one in enumerate(source.manifest.shards) if (one.split, one.kind) == (self.split, kind)
            ]
            starts = np.cumsum([0, *(source.manifest.shards[shard].samples for shard in shards)])
            if table is None:
                self._add_cell(Cell(kind, int(starts[-1]), None, number), None, starts, source)
                continue
            rows = table.rows(_rows(first, shards))
            kept, reasons = wanted.keep(rows)
            self.skipped.update(reasons)
            bucket = sizes.assign(rows.sizes) if sizes else np.zeros(len(rows), np.int16)
            bucket[~kept] = -3
            order = np.argsort(bucket, kind="stable").astype(np.uint32)  # samples by bucket, in their order
            counts = np.bincount(bucket + 3, minlength=3).tolist()
            self.skipped.update(
                {reason: counts[place + 3] for place, reason in _NO_BUCKET.items() if counts[place + 3]}
            )
            stops = np.cumsum(counts)
            for place, size in enumerate(sizes.sizes if sizes else [None]):
                if place + 3 < len(counts) and counts[place + 3]:
                    members = order[stops[place + 2] : stops[place + 3]]
                    self._add_cell(Cell(kind, len(members), size, number), members, starts, source)

    def _add_cell(self, cell: Cell, members: np.ndarray | None, starts: np.ndarray, source: DataSource) -> None:
        """Add a cell; `starts` has the number of the first sample of each shard, and at its end that of all."""
        assert cell.count is not None
        if source.is_sequential or cell.count > FULL_SHUFFLE:
            runs = starts[:-1] if members is None else np.unique(np.searchsorted(members, starts[:-1]))
            runs = runs[runs < cell.count]
            cell = replace(cell, runs=runs, window=_SEQUENTIAL_WINDOW if source.is_sequential else None)
        self.cells.append(cell)
        self.members.append(members)

    def _add_stream(self, number: int, source: StreamSource, sizes: BucketSizes | None) -> None:
        if sizes is not None:
            msg = (
                f"{source.name} is streamed, so sizes are not known before samples are read. Buckets need a manifest: "
                "`unipic2-data index FOLDER`."
            )
            raise DataError(msg)
        self.cells.append(Cell(source.kind, None, None, number, quota=_STREAM_EPOCH))
        self.members.append(None)

    def _weigh(self, weights: Sequence[float | None]) -> None:
        """Set the quotas of the cells, so that each source has its share of the samples of each kind."""
        given = [weight for weight in weights if weight is not None]
        if len(weights) == 1 or not given:
            if len(weights) > 1 and any(cell.count is None for cell in self.cells):
                msg = "nobody knows how many samples tars without a manifest hold: give every source a weight."
                raise DataError(msg)
            return
        if len(given) < len(weights) or not all(0 < weight < float("inf") for weight in given):
            msg = f"weights must be positive and given to all sources or to none, got {list(weights)}."
            raise DataError(msg)
        for kind in {cell.kind for cell in self.cells}:
            ones = [number for number, cell in enumerate(self.cells) if cell.kind == kind]
            held: Counter[int] = Counter()
            for number in ones:
                held[self.cells[number].source] += self.cells[number].share
            whole, weight = sum(held.values()), sum(given[source] for source in held)
            for number in ones:
                cell = self.cells[number]
                quota = whole * given[cell.source] / weight * cell.share / held[cell.source]
                self.cells[number] = replace(cell, quota=max(1, round(quota)))


def _rows(first: np.ndarray, shards: list[int]) -> np.ndarray | slice:
    """Return the rows of a table that some shards have; `first` has the first row of each."""
    if shards == list(range(shards[0], shards[-1] + 1)):
        return slice(int(first[shards[0]]), int(first[shards[-1] + 1]))
    return np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards])
