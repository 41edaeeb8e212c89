"""The loaders that training and validation read.

The training loader is a pure function of (sources, plan, optimiser step): its whole state is the number of optimiser
steps done, and, for tars without a manifest, which shards are left. Bad samples are counted where batches are consumed.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from unipic2_data.assemble import assemble, make_batch
from unipic2_data.errors import DataError
from unipic2_data.manifest import Manifest
from unipic2_data.patience import Patience
from unipic2_data.plan import Plan, rank_rows
from unipic2_data.pool import Pool
from unipic2_data.quarantine import BadSample, Quarantine
from unipic2_data.sources import StreamSource
from unipic2_data.store import Decoded, SampleStore
from unipic2_data.streams import StreamProgress, StreamReader, StreamState
from unipic2_data.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from unipic2_data.assemble import Encoded
    from unipic2_data.batch import Batch
    from unipic2_data.quarantine import Fault
    from unipic2_data.sample import Sample

__all__ = ["Decoded", "SampleStore", "TrainLoader", "eval_batches", "make_batch"]

_ENDLESS = 10**9  # Lightning loses a batch on resume if a loader has no length
_log = logging.getLogger(__name__)


class TrainLoader:
    """Endless micro-batches of one rank, from an optimiser step on.

    Args:
        data: The samples, or a data set of which all samples of the split are meant.
        size: (H, W) of the batches in pixels, or one number for both; not used where the samples have buckets.
        batch_size: Samples of one micro-batch of one rank.
        seed: Seed of order and caption choice.
        split: Split to train on, of a data set.
        tasks: Ratio of kinds, see `Plan`.
        accumulate: Micro-batches of one optimiser step.
        rank: This process.
        world_size: Number of processes.
        num_workers: Worker processes; the batches do not depend on it, except those of streams.
        start_step: Optimiser steps done before; `for` starts there. May be set again before iterating.
        streams: What is left of each stream, by number of the source; see `stream_state`.
        upscale: Whether pictures smaller than the batch are enlarged; else they are bad samples.
        bad_rate: Share of bad samples beyond which the loader stops with a summary; 0 = at the first.
        quarantine: File that names bad samples.
        encoded: Pictures and texts that were encoded earlier, to be used instead.
        flip: Share of samples whose pictures are mirrored; only for data in which left and right do not matter.
        patience: How patiently servers and commands are tried.
    """

    def __init__(
        self,
        data: Pool | Manifest,
        size: int | tuple[int, int],
        batch_size: int,
        seed: int,
        *,
        split: str = "train",
        tasks: Mapping[str, float] | None = None,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start_step: int = 0,
        streams: Mapping[int, StreamState] | None = None,
        upscale: bool = True,
        bad_rate: float = 0.0,
        quarantine: Path | None = None,
        encoded: Encoded | None = None,
        flip: float = 0.0,
        patience: Patience | None = None,
    ) -> None:
        if not 0 <= rank < world_size or min(batch_size, accumulate) < 1 or min(num_workers, start_step) < 0:
            msg = (
                f"no such layout: rank {rank} of {world_size}, batch size {batch_size}, accumulate {accumulate}, "
                f"{num_workers} workers, start step {start_step}."
            )
            raise DataError(msg)
        self.pool = Pool.whole(data, split) if isinstance(data, Manifest) else data
        self.plan = Plan(self.pool.cells, seed, batch_size * accumulate * world_size, tasks)
        self.start_step, self.accumulate, self.num_workers = start_step, accumulate, num_workers
        self.quarantine = Quarantine(bad_rate, quarantine)
        self._streams = {
            number: (streams or {}).get(number, StreamState())
            for number, source in enumerate(self.pool.sources)
            if isinstance(source, StreamSource)
        }
        self._progress: dict[int, StreamProgress] = {}
        layout = (batch_size, accumulate, rank, world_size)
        samples = _Samples(self.pool, self._streams, seed, layout, patience or Patience())
        self._batches = _MicroBatches(samples, self.plan, (_as_size(size), upscale), seed, layout, encoded, flip)
        if rank == 0:
            self._warn()

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._all():
            self.quarantine.check(batch)
            if batch.progress is not None:
                self._progress[batch.progress.reader] = batch.progress
            yield batch

    @property
    def report(self) -> str:
        """What there is to train on, what is left out and why, and what the first epoch hands on to the next."""
        left = sum(self.plan.left_over(0).values())
        return f"{self.pool}\nin the first epoch, {left} samples fill no batch of their size and move to the next"

    @property
    def finished_shards(self) -> dict[int, list[int]]:
        """Number of each stream -> the shards that each reader of this rank has finished, of batches consumed."""
        readers = range(max(1, self.num_workers))
        return {
            source: [self._progress[reader].finished[source] if reader in self._progress else 0 for reader in readers]
            for source in self._streams
        }

    def stream_states(self, finished: Sequence[Mapping[int, Sequence[int]]]) -> dict[int, StreamState]:
        """Return what is left of each stream.

        Args:
            finished: `finished_shards` of every rank.
        """
        return {
            source: state.after([shards for rank in finished for shards in rank[source]])
            for source, state in self._streams.items()
        }

    def _warn(self) -> None:
        """Say what a person may not expect."""
        if self.pool.skipped:
            _log.warning("not all samples are trained on:\n%s", self.report)
        for number in self._streams:
            _log.warning(
                "%s has no manifest: it is streamed, and a resumed run reads the shards again that it was in. With "
                "`unipic2-data index` it would go on at the exact sample.",
                self.pool.sources[number].name,
            )

    def _all(self) -> Iterator[Batch]:
        first = self.start_step * self.accumulate
        if self.num_workers == 0:
            return map(self._batches.__getitem__, count(first))
        loader = DataLoader(
            self._batches, batch_size=None, sampler=_From(first), num_workers=self.num_workers, collate_fn=_identity
        )
        return iter(loader)


def eval_batches(
    manifest: Manifest,
    split: str,
    kind: str,
    size: int | tuple[int, int],
    batch_size: int,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Yield the first `limit` samples of a split and kind in their order, the last batch as short as it comes.

    Args:
        manifest: The data set.
        split: Its split.
        kind: Kind of the samples.
        size: (H, W) in pixels, or one number for both.
        batch_size: Samples per batch.
        limit: Number of samples; None = all.

    Raises:
        DataError: If a sample is bad: scores of different samples cannot be compared.
    """
    store = SampleStore(manifest, split, [kind])
    transform = Transform(_as_size(size))
    stop = store.counts[kind] if limit is None else min(limit, store.counts[kind])
    for start in range(0, stop, batch_size):
        numbers = range(start, min(start + batch_size, stop))
        samples = [store.sample(kind, index, transform.size) for index in numbers]
        yield make_batch(samples, [0] * len(samples), transform)


class _Samples:
    """The samples of a pool by cell and number, and its streams."""

    def __init__(
        self,
        pool: Pool,
        states: dict[int, StreamState],
        seed: int,
        layout: tuple[int, int, int, int],
        patience: Patience,
    ) -> None:
        self._pool, self._states, self._seed, self._patience = pool, states, seed, patience
        *_, self._rank, self._world = layout
        self._stores = {
            number: SampleStore.of(source, pool.split)
            for number, source in enumerate(pool.sources)
            if not isinstance(source, StreamSource)
        }
        self._readers: dict[int, StreamReader] = {}

    def read(self, cell: int, index: int) -> tuple[Sample | Fault, str]:
        """Return a sample, or what is wrong with it, and where it is."""
        number, kind, members = self._pool.cells[cell].source, self._pool.cells[cell].kind, self._pool.members[cell]
        name = self._pool.sources[number].name
        if number in self._states:
            return self._reader(number).next(), f"{name}, {index}"
        index = index if members is None else int(members[index])
        try:
            return self._stores[number].read(kind, index), name
        except BadSample as error:
            return error.fault, f"{name}/{self._stores[number].where(kind, index)}"

    def progress(self) -> StreamProgress | None:
        """Return how far this process has read the streams."""
        if not self._states:
            return None
        worker = get_worker_info()
        finished = {number: self._readers[number].finished if number in self._readers else 0 for number in self._states}
        return StreamProgress(worker.id if worker else 0, finished)

    def _reader(self, number: int) -> StreamReader:
        if number not in self._readers:
            worker = get_worker_info()
            workers, own = (worker.num_workers, worker.id) if worker else (1, 0)
            source = self._pool.sources[number]
            assert isinstance(source, StreamSource)
            self._readers[number] = StreamReader(
                source,
                self._seed,
                self._states[number],
                self._rank * workers + own,
                self._world * workers,
                self._patience,
            )
        return self._readers[number]


class _MicroBatches(Dataset["Batch"]):
    """Micro-batch number n of a rank: of optimiser step n // accumulate."""

    def __init__(
        self,
        samples: _Samples,
        plan: Plan,
        shape: tuple[tuple[int, int], bool],
        seed: int,
        layout: tuple[int, int, int, int],
        encoded: Encoded | None,
        flip: float,
    ) -> None:
        self._samples, self._plan, self._shape, self._seed = samples, plan, shape, seed
        self._layout, self._encoded, self._flip = layout, encoded, flip

    def __getitem__(self, number: int) -> Batch:
        batch_size, accumulate, rank, world_size = self._layout
        number, micro = divmod(number, accumulate)
        step = self._plan.step(number)
        rows = rank_rows(batch_size, micro, rank, world_size)
        places = zip(step.cells[rows].tolist(), step.indices[rows].tolist(), strict=True)
        samples = [self._samples.read(*place) for place in places]
        size, upscale = self._shape
        transform = Transform(step.size or size, upscale)
        visits = step.visits[rows].tolist()
        batch = assemble(step.kind, samples, visits, transform, self._seed, self._encoded, self._flip)
        batch.progress = self._samples.progress()
        return batch


class _From(Sampler[int]):
    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return count(self._first)


def _identity(batch: Any) -> Any:
    return batch


def _as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
