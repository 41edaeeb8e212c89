"""Batches for the stages: sources of samples in, one global order for any number of processes.

``global_batch`` is the number of samples of an optimiser step over all ranks and accumulated micro-batches; what each
rank loads at once follows from the trainer. The order is a function of (manifests, seed, step), so the only state is
the number of optimiser steps done, which the trainer's checkpoint holds anyway; of tars without a manifest it holds
which shards are left.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.buckets import Buckets, BucketSizes
from unipic2_data.cache.read import Cache, CacheConfig
from unipic2_data.errors import DataError
from unipic2_data.loader import SampleStore, TrainLoader, eval_batches
from unipic2_data.manifest import Manifest
from unipic2_data.plan import Plan
from unipic2_data.pool import Pool
from unipic2_data.sources import DataSource, Source, StreamSource, open_source
from unipic2_data.streams import StreamState
from unipic2_data.transform import Transform
from unipic2_dit.resolution import Sizes
from unipic2_dit.vae import spatial_factor
from unipic2_train import home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer

    from unipic2_data.batch import Batch

__all__ = ["FixedBatches", "ShardData", "micro_batch"]


class ShardData(LightningDataModule):
    """Training and evaluation batches of canonical samples.

    Args:
        path: Folder with ``manifest.json`` as ``unipic2-data`` writes it, or ``home:PRESET/shapes``: what validation
            reads, and what is trained on if there are no ``sources``.
        size: Edge of the square pictures, in pixels; reference and target share one resize and centre crop.
        global_batch: Samples per optimiser step, over all ranks and micro-batches.
        tasks: Share of optimiser steps by kind, e.g. ``{t2i: 1, edit: 1}``; ``null``: all kinds the data has, evenly.
        seed: Seed of the order.
        num_workers: Loader processes per rank.
        validation_samples: Samples of each kind in a validation pass, over all ranks.
        cache: Latents and text embeddings that ``lightning run encode`` made; ``null``: encode as it comes.
        flip: Share of samples that are mirrored, a choice anew at each visit; where left and right do not matter.
        sources: What is trained on instead of ``path``: data sets anywhere, or tars; mixed by weight, filtered.
        buckets: Aspect ratios and resolutions of training pictures instead of ``size``; edges are multiples of what
            the model can make.
        bad_rate: Share of bad samples beyond which the run stops with a summary; fewer keep their rows with weight 0
            and are named in ``quarantine/`` of the run's folder.
    """

    def __init__(
        self,
        path: str,
        size: int,
        global_batch: int,
        tasks: dict[str, float] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        validation_samples: int = 256,
        cache: CacheConfig | None = None,
        flip: float = 0.0,
        sources: list[Source] | None = None,
        buckets: Buckets | None = None,
        bad_rate: float = 0.01,
    ) -> None:
        super().__init__()
        self.path, self.size, self.global_batch = path, size, global_batch
        self.tasks, self.seed, self.num_workers = tasks, seed, num_workers
        self.validation_samples, self.cache, self.flip = validation_samples, cache, flip
        self.sources, self.buckets, self.bad_rate = sources, buckets, bad_rate
        self.manifest: Manifest | None = None
        self._opened: list[DataSource | StreamSource] = []
        self._loader: TrainLoader | None = None
        self._streams: dict[int, StreamState] = {}

    @classmethod
    def check(cls, config: Any) -> None:
        """Read what there is to train on, before a run's folder is made and processes are started."""
        manifest = Manifest.load(home.path(config.path))
        sources = [_source(Source(**vars(source))) for source in config.sources or []]
        pool = Pool.of(sources) if sources else Pool.whole(manifest)
        Plan(pool.cells, config.seed, config.global_batch, config.tasks)
        if config.buckets:
            for source in pool.sources:
                if isinstance(source, DataSource):
                    source.table()  # made now if it is not there, once for all processes

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Read the manifests."""
        if self.manifest is None:
            self.manifest = Manifest.load(home.path(self.path))
            self._opened = [open_source(_source(source)) for source in self.sources or []]

    @property
    def micro_batch(self) -> int:
        """Samples that one rank loads at once.

        Raises:
            ValueError: The global batch can't be divided evenly.
        """
        assert self.trainer is not None
        return micro_batch(self.trainer, self.global_batch)

    def train_dataloader(self) -> TrainLoader:
        """Return this rank's endless micro-batches, from the trainer's optimiser step on."""
        assert self.trainer is not None
        log = Path(self.trainer.default_root_dir) / "quarantine" / f"rank-{self.trainer.global_rank}.jsonl"
        self._loader = TrainLoader(
            self.training_pool(None if self.buckets is None else BucketSizes(self.buckets, self._multiple())),
            self.size,
            self.micro_batch,
            self.seed,
            tasks=self.tasks,
            accumulate=self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            num_workers=self.num_workers,
            start_step=self.trainer.global_step,
            encoded=None if self.cache is None else Cache(self.cache, Transform.identity),
            flip=self.flip,
            streams=self._streams,
            upscale=self.buckets is None or self.buckets.upscale,
            bad_rate=self.bad_rate,
            quarantine=log,
        )
        return self._loader

    def training_pool(self, sizes: BucketSizes | None) -> Pool:
        """Return the samples that are trained on, by source, kind and size; ``sizes`` are those of the buckets."""
        assert self.manifest is not None
        if self.sources:
            return Pool.of(self.sources, sizes, opened=self._opened)
        return Pool.whole(self.manifest, sizes=sizes)

    def val_dataloader(self) -> FixedBatches:
        """Return this rank's share of fixed validation batches of every kind; every rank has as many."""
        kinds = self.kinds_in("validation")
        if not kinds:
            assert self.manifest is not None
            msg = (
                f"the validation split of {self.manifest.root} has no {' or '.join(self.kinds)} samples: make some "
                "(`unipic2-data import --validation_fraction`), or train without (--trainer.limit_val_batches 0)"
            )
            raise DataError(msg)
        batches = (self.fixed_batches("validation", kind, self.validation_samples) for kind in kinds)
        return FixedBatches([batch for of_kind in batches for batch in of_kind])

    def test_dataloader(self) -> FixedBatches:
        """Return the validation batches; on the test split generation is measured (see ``ShapesEvaluation``)."""
        return self.val_dataloader()

    @property
    def kinds(self) -> list[str]:
        """The kinds that this run trains on."""
        assert self.manifest is not None
        if self.tasks:
            return list(self.tasks)
        if not self._opened:
            return list(self.manifest.kinds("train"))
        found = [
            [source.kind] if isinstance(source, StreamSource) else source.manifest.kinds("train")
            for source in self._opened
        ]
        return list(dict.fromkeys(kind for kinds in found for kind in kinds))

    def kinds_in(self, split: str) -> list[str]:
        """The kinds that this run trains on and that a split has; few imported samples may leave a kind without."""
        assert self.manifest is not None
        return [kind for kind in self.kinds if self.manifest.counts.get(split, {}).get(kind)]

    @property
    def has_ground_truth(self) -> bool:
        """Whether samples say what a right picture shows: those of the shapes world do, imported ones do not."""
        assert self.manifest is not None
        split = "validation" if self.sources else "train"
        kinds = self.kinds_in(split)
        store = SampleStore(self.manifest, split, kinds) if kinds else None
        return store is not None and all("shapes" in store.read(kind, 0).meta for kind in kinds)

    def fixed_batches(self, split: str, kind: str, samples: int, batch_size: int = 64) -> Iterator[Batch]:
        """Yield this rank's share of the first samples of a split, in a fixed order.

        All ranks yield the same number of batches of the same sizes, since under FSDP each forward involves all of
        them; what does not divide evenly is left out.
        """
        assert self.manifest is not None
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        available = self.manifest.kinds(split).get(kind, 0)
        if available == 0:
            msg = f"the data set {self.manifest.root} has no {kind} samples in its {split} split"
            raise DataError(msg)
        batch_size = max(1, min(batch_size, samples // world, available // world))
        whole = min(samples, available) // (batch_size * world)
        batches = eval_batches(self.manifest, split, kind, self.size, batch_size, whole * world * batch_size)
        yield from (batch for index, batch in enumerate(batches) if index % world == rank)

    def fixed_batch(self, split: str, kind: str, samples: int) -> Batch:
        """Return the first samples of a split as one batch, the same on every rank."""
        assert self.manifest is not None
        return next(eval_batches(self.manifest, split, kind, self.size, samples, samples))

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on, to compare at resume, and what is left of streams; on all ranks alike."""
        assert self.manifest is not None
        return {
            "manifest": self.manifest.digest,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "tasks": self.tasks and dict(sorted(self.tasks.items())),
            "size": self.size,
            "flip": self.flip,
            "sources": [_identity(*both) for both in zip(self.sources or [], self._opened, strict=True)],
            "buckets": self.buckets and asdict(self.buckets),
            "streams": self._streams_left(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data, and take up what is left of streams.

        Raises:
            ValueError: Data, seed, global batch, tasks or sizes differ from the checkpoint's.
        """
        assert self.trainer is not None
        if self.trainer.state.fn != TrainerFn.FITTING:  # A finished model may be scored on any data.
            return
        own = {key: value for key, value in self.state_dict().items() if key != "streams"}
        then = {"flip": 0.0, "sources": [], "buckets": None, **state_dict}
        changed = [f"{key}: {then[key]} then, {own[key]} now" for key in own if own[key] != then[key]]
        if changed:
            msg = (
                "the checkpoint was trained on another sequence of batches (" + "; ".join(changed) + "). Resume with "
                "the run's own data, seed and global batch, or start a new run from its exported model."
            )
            raise ValueError(msg)
        streams = state_dict.get("streams", {})
        self._streams = {number: StreamState.from_json(state) for number, state in streams.items()}

    def _streams_left(self) -> dict[int, Any]:
        """Return what is left of each stream, after what all ranks have read."""
        if self._loader is None or not (finished := self._loader.finished_shards):
            return {}
        ranks: list[Any] = [finished]
        if dist.is_available() and dist.is_initialized():
            ranks = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, finished)
        return {number: state.to_json() for number, state in self._loader.stream_states(ranks).items()}

    def _multiple(self) -> int:
        """Return what edges of pictures are multiples of, from the configs of the model that is trained."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        if system := getattr(module, "kontext", None) or getattr(module, "metaquery", None):
            return Sizes.of(system.transformer, system.frozen.vae).multiple
        return spatial_factor(module.vae)


def micro_batch(trainer: Trainer, global_batch: int) -> int:
    """Return how many samples of a global batch one rank loads at once.

    Raises:
        ValueError: The global batch can't be divided evenly.
    """
    parts = trainer.world_size * trainer.accumulate_grad_batches
    if global_batch % parts:
        msg = (
            f"data.global_batch {global_batch} must be a multiple of {trainer.world_size} processes x "
            f"{trainer.accumulate_grad_batches} accumulated micro-batches = {parts}"
        )
        raise ValueError(msg)
    return global_batch // parts


class FixedBatches:
    """Batches in memory as a loader. (Lightning takes a plain list apart.)."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _identity(source: Source, opened: DataSource | StreamSource) -> dict[str, Any]:
    """Return what the order depends on of a source; a data set may have moved."""
    place = opened.name if isinstance(opened, StreamSource) else opened.manifest.digest
    return asdict(source) | {"path": place, "tars": None}


def _source(source: Source) -> Source:
    """Return a source with a ``home:`` reference resolved."""
    return replace(source, path=str(home.path(source.path))) if source.path.startswith(home.PREFIX) else source
