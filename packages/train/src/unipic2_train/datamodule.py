"""Batches for the stages: canonical shards in, one global order for any number of processes.

``global_batch`` is the number of samples of an optimiser step over all ranks and accumulated micro-batches; what each
rank loads at once follows from the trainer. The order is a function of (manifest, seed, step), so the only state is the
number of optimiser steps done, which the trainer's checkpoint holds anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.cache.read import Cache, CacheConfig
from unipic2_data.errors import DataError
from unipic2_data.loader import SampleStore, TrainLoader, eval_batches
from unipic2_data.manifest import Manifest
from unipic2_data.plan import Plan
from unipic2_data.transform import Transform
from unipic2_train import home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unipic2_data.batch import Batch

__all__ = ["ShardData"]


class ShardData(LightningDataModule):
    """Training and evaluation batches from a folder of canonical shards.

    Args:
        path: Folder with ``manifest.json`` as ``unipic2-data`` writes it, or ``home:PRESET/shapes``.
        size: Edge of the square training pictures, in pixels; reference and target share one resize and centre crop.
        global_batch: Samples per optimiser step, over all ranks and micro-batches.
        tasks: Share of optimiser steps by kind, e.g. ``{t2i: 1, edit: 1}``; ``null``: all kinds the data has, evenly.
        seed: Seed of the order.
        num_workers: Loader processes per rank.
        validation_samples: Samples of each kind in a validation pass, over all ranks.
        cache: Latents and text embeddings that ``lightning run encode`` made; ``null``: encode as it comes.
        flip: Share of samples that are mirrored, a choice anew at each visit; where left and right do not matter.
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
    ) -> None:
        super().__init__()
        self.path, self.size, self.global_batch = path, size, global_batch
        self.tasks, self.seed, self.num_workers = tasks, seed, num_workers
        self.validation_samples, self.cache, self.flip = validation_samples, cache, flip
        self.manifest: Manifest | None = None

    @classmethod
    def check(cls, config: Any) -> None:
        """Read what there is to train on, before a run's folder is made."""
        Plan(Manifest.load(home.path(config.path)).kinds("train"), config.seed, config.global_batch, config.tasks)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Read the manifest."""
        if self.manifest is None:
            self.manifest = Manifest.load(home.path(self.path))

    @property
    def micro_batch(self) -> int:
        """Samples that one rank loads at once.

        Raises:
            ValueError: The global batch can't be divided evenly.
        """
        assert self.trainer is not None
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.global_batch % parts:
            msg = (
                f"data.global_batch {self.global_batch} must be a multiple of {self.trainer.world_size} processes x "
                f"{self.trainer.accumulate_grad_batches} accumulated micro-batches = {parts}"
            )
            raise ValueError(msg)
        return self.global_batch // parts

    def train_dataloader(self) -> TrainLoader:
        """Return this rank's endless micro-batches, from the trainer's optimiser step on."""
        assert self.manifest is not None
        assert self.trainer is not None
        return TrainLoader(
            self.manifest,
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
        )

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
        return list(self.tasks or self.manifest.kinds("train"))

    def kinds_in(self, split: str) -> list[str]:
        """The kinds that this run trains on and that a split has; few imported samples may leave a kind without."""
        assert self.manifest is not None
        return [kind for kind in self.kinds if self.manifest.counts.get(split, {}).get(kind)]

    @property
    def has_ground_truth(self) -> bool:
        """Whether samples say what a right picture shows: those of the shapes world do, imported ones do not."""
        assert self.manifest is not None
        store = SampleStore(self.manifest, "train", self.kinds)
        return all("shapes" in store.read(kind, 0).meta for kind in self.kinds)

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
        """Return what the order depends on, to compare at resume."""
        assert self.manifest is not None
        tasks = self.tasks and dict(sorted(self.tasks.items()))
        return {
            "manifest": self.manifest.digest,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "tasks": tasks,
            "size": self.size,
            "flip": self.flip,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data.

        Raises:
            ValueError: Manifest, seed, global batch, tasks or size differ from the checkpoint's.
        """
        assert self.trainer is not None
        if self.trainer.state.fn != TrainerFn.FITTING:  # A finished model may be scored on any data.
            return
        own = self.state_dict()
        then = {"flip": 0.0, **state_dict}
        changed = [f"{key}: {then[key]} then, {own[key]} now" for key in own if own[key] != then[key]]
        if changed:
            msg = (
                "the checkpoint was trained on another sequence of batches (" + "; ".join(changed) + "). Resume with "
                "the run's own data, seed and global batch, or start a new run from its exported model."
            )
            raise ValueError(msg)


class FixedBatches:
    """Batches in memory as a loader. (Lightning takes a plain list apart.)."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)
