"""Random access to samples, and the loaders that training and validation read.

The training loader is a pure function of (manifest, split, plan, optimiser step): its whole state is the number of
optimiser steps done. Batches are assembled as uint8 and turned into floats in [-1, 1] once.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unipic2_data.batch import Batch
from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb
from unipic2_data.plan import Plan, rank_rows
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Sample, sample_from_tar, texts_of
from unipic2_data.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from unipic2_data.manifest import Manifest, Shard

__all__ = ["Decoded", "SampleStore", "TrainLoader", "eval_batches", "make_batch"]

_OPEN_SHARDS = 128
_ENDLESS = 10**9  # Lightning loses a batch on resume if a loader has no length


@dataclass(slots=True)
class Decoded:
    """A sample with its pictures as uint8 (h, w, 3)."""

    key: str
    kind: str
    texts: list[str]
    meta: dict[str, Any]
    target: np.ndarray | None
    references: list[np.ndarray]


class SampleStore:
    """The samples of one split by kind and number, each one read away.

    Args:
        manifest: The data set.
        split: Its split.
        kinds: Kinds to read; None = all that the split has.

    Raises:
        DataError: If the split or a kind is empty, or an index does not fit its shard.
    """

    def __init__(self, manifest: Manifest, split: str, kinds: Sequence[str] | None = None) -> None:
        self.manifest, self.split = manifest, split
        self.counts: dict[str, int] = {}
        self._shards: dict[str, list[Shard]] = {}
        self._starts: dict[str, list[int]] = {}
        self._offsets: dict[str, np.ndarray] = {}
        for kind in kinds or manifest.kinds(split):
            shards = manifest.shards_of(split, kind)
            offsets = [manifest.offsets(shard) for shard in shards]
            for shard, table in zip(shards, offsets, strict=True):
                if table.shape != (shard.samples, 2):
                    msg = f"index {shard.index} has shape {table.shape}, expected ({shard.samples}, 2). Make it again."
                    raise DataError(msg)
            self._shards[kind] = shards
            self._starts[kind] = np.cumsum([0, *(shard.samples for shard in shards)]).tolist()
            self._offsets[kind] = np.concatenate(offsets)
            self.counts[kind] = len(self._offsets[kind])
        self._files: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict()}  # file handles stay in their process

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def read(self, kind: str, index: int) -> Sample:
        """Return sample number `index` of a kind, pictures still encoded."""
        number = bisect_right(self._starts[kind], index) - 1
        shard = self._shards[kind][number]
        start, length = self._offsets[kind][index].tolist()
        data = os.pread(self._file(shard), length, start)
        return sample_from_tar(data, f"{shard.path}, sample {index - self._starts[kind][number]}")

    def sample(self, kind: str, index: int) -> Decoded:
        """Return sample number `index` of a kind with its pictures decoded.

        Raises:
            DataError: If the sample is damaged, lacks what its kind needs, or has no text.
        """
        sample = self.read(kind, index)
        where = f"sample {sample.key} of {self.manifest.root}"
        texts = texts_of(sample.kind, sample.meta, where)
        needs_target, needs_reference = sample.kind in {"t2i", "edit"}, sample.kind == "edit"
        if (sample.target is None and needs_target) or (len(sample.references) != 1 and needs_reference):
            msg = (
                f"{where}: a {sample.kind} sample needs a target{' and one reference' if needs_reference else ''}, "
                f"found {'a' if sample.target else 'no'} target and {len(sample.references)} references."
            )
            raise DataError(msg)
        try:
            target = decode_rgb(sample.target.data) if sample.target else None
            references = [decode_rgb(image.data) for image in sample.references]
        except DataError as error:
            msg = f"{where}: {error}"
            raise DataError(msg) from error
        return Decoded(sample.key, sample.kind, texts, sample.meta, target, references)

    def _file(self, shard: Shard) -> int:
        if shard.path in self._files:
            self._files.move_to_end(shard.path)
            return self._files[shard.path]
        if len(self._files) >= _OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        try:
            file = os.open(self.manifest.root / shard.path, os.O_RDONLY)
        except OSError as error:
            msg = f"cannot read shard {self.manifest.root / shard.path}: {error.strerror}. Copy or make it again."
            raise DataError(msg) from error
        self._files[shard.path] = file
        return file


def make_batch(
    samples: Sequence[Decoded], visits: Iterable[int], transform: Transform, seed: int | None = None
) -> Batch:
    """Assemble samples of one kind into a batch.

    Args:
        samples: B samples.
        visits: Visit of each sample.
        transform: Brings the pictures to one size.
        seed: Seed of the choice among several captions, keyed by sample and visit; None = always the first.
    """
    visits = [int(visit) for visit in visits]
    targets, references = [], []
    for sample in samples:
        if sample.target is None:
            continue
        try:
            target, changed, scale = transform(sample.target, sample.references)
        except DataError as error:
            msg = f"sample {sample.key}: {error}"
            raise DataError(msg) from error
        if scale > 1:
            sample.meta["upscale"] = scale
        targets.append(target)
        references.extend(changed)
    return Batch(
        kind=samples[0].kind,
        keys=[sample.key for sample in samples],
        visits=torch.tensor(visits, dtype=torch.int64),
        prompts=[_choose(sample, visit, seed) for sample, visit in zip(samples, visits, strict=True)],
        size=transform.size,
        weight=torch.ones(len(samples)),
        meta=[sample.meta for sample in samples],
        pixels=_to_pixels(targets) if targets else None,
        references=_to_pixels(references) if references else None,
    )


class TrainLoader:
    """Endless micro-batches of one rank, from an optimiser step on.

    Args:
        manifest: The data set.
        size: (H, W) of the batches in pixels, or one number for both.
        batch_size: Samples of one micro-batch of one rank.
        seed: Seed of order and caption choice.
        split: Split to train on.
        tasks: Ratio of kinds, see `Plan`.
        accumulate: Micro-batches of one optimiser step.
        rank: This process.
        world_size: Number of processes.
        num_workers: Worker processes; the batches do not depend on it.
        start_step: Optimiser steps done before; `for` starts there. May be set again before iterating.
    """

    def __init__(
        self,
        manifest: Manifest,
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
    ) -> None:
        if not 0 <= rank < world_size or min(batch_size, accumulate) < 1 or min(num_workers, start_step) < 0:
            msg = (
                f"no such layout: rank {rank} of {world_size}, batch size {batch_size}, accumulate {accumulate}, "
                f"{num_workers} workers, start step {start_step}."
            )
            raise DataError(msg)
        counts = manifest.kinds(split)
        self.plan = Plan(counts, seed, batch_size * accumulate * world_size, tasks)
        self.store = SampleStore(manifest, split, list(self.plan.tasks))
        self.start_step, self.accumulate, self.num_workers = start_step, accumulate, num_workers
        transform = Transform(_as_size(size))
        self._batches = _MicroBatches(
            self.store, self.plan, transform, seed, (batch_size, accumulate, rank, world_size)
        )

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Batch]:
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
    """
    store = SampleStore(manifest, split, [kind])
    transform = Transform(_as_size(size))
    stop = store.counts[kind] if limit is None else min(limit, store.counts[kind])
    for start in range(0, stop, batch_size):
        samples = [store.sample(kind, index) for index in range(start, min(start + batch_size, stop))]
        yield make_batch(samples, [0] * len(samples), transform)


class _MicroBatches(Dataset[Batch]):
    """Micro-batch number n of a rank: of optimiser step n // accumulate."""

    def __init__(
        self, store: SampleStore, plan: Plan, transform: Transform, seed: int, layout: tuple[int, int, int, int]
    ) -> None:
        self._store, self._plan, self._transform, self._seed, self._layout = store, plan, transform, seed, layout

    def __getitem__(self, number: int) -> Batch:
        batch_size, accumulate, rank, world_size = self._layout
        number, micro = divmod(number, accumulate)
        step = self._plan.step(number)
        rows = rank_rows(batch_size, micro, rank, world_size)
        samples = [self._store.sample(step.kind, index) for index in step.indices[rows].tolist()]
        return make_batch(samples, step.visits[rows], self._transform, self._seed)


class _From(Sampler[int]):
    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return count(self._first)


def _identity(batch: Any) -> Any:
    return batch


def _choose(sample: Decoded, visit: int, seed: int | None) -> str:
    if seed is None or len(sample.texts) == 1:
        return sample.texts[0]
    return sample.texts[keyed_rng(seed, sample.key, visit, "caption").integers(len(sample.texts))]


def _to_pixels(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, 3) each -> float32 (B, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def _as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
