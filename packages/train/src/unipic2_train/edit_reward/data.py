"""Scored edits as ``unipic2-train label-edits`` writes them, in batches of whole groups.

The order of the groups is a function of (data set, seed, step), as that of samples is for other stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from unipic2_data.loader import SampleStore, make_batch
from unipic2_data.manifest import Manifest
from unipic2_data.plan import Plan, rank_rows
from unipic2_data.transform import Transform
from unipic2_train import home
from unipic2_train.datamodule import FixedBatches
from unipic2_train.edit_reward import COMMAND, KIND, SCORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unipic2_data.batch import Batch

__all__ = ["ScoreFacts", "ScoredEdits"]

BATCH = 64  # edits that are judged at once in validation, about
ENDLESS = 10**9  # Lightning loses a batch on resume if a loader has no length


@dataclass(frozen=True)
class ScoreFacts:
    """What is known of the scores of a data set."""

    judge: dict[str, str]
    """Who gave them: ``id`` and ``revision``."""
    per_group: int
    """Edits of one source by one instruction, which stand one after the other."""
    size: int
    """Edge of the pictures, in pixels."""
    mean: float
    """Of the training split's scores."""
    std: float
    """Their standard deviation."""

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> ScoreFacts:
        """Read them from the manifest.

        Raises:
            ValueError: The data set is not one of scored edits.
        """
        made = manifest.generator
        if made.get("command") != COMMAND:
            msg = (
                f"{manifest.root} was made by {made.get('command', 'something unknown')!r}: this stage learns from "
                f"edits that one judge has scored, as `unipic2-train {COMMAND}` writes them"
            )
            raise ValueError(msg)
        return cls(made["judge"], made["per_group"], made["size"], made["scores"]["mean"], made["scores"]["std"])

    @staticmethod
    def of(batch: Batch) -> Tensor:
        """Return the scores of a batch as the judge gave them, NaN where it failed, float64 (B,)."""
        return torch.tensor([meta["scores"].get(SCORE, torch.nan) for meta in batch.meta], dtype=torch.float64)


class ScoredEdits(LightningDataModule):
    """Batches of whole groups of scored edits.

    Args:
        path: Folder that ``unipic2-train label-edits`` has written, or ``home:PRESET/edit-scores``.
        global_batch: Edits per optimiser step, over all ranks and micro-batches: a multiple of the edits of a group.
        seed: Seed of the order.
        validation_samples: Groups of a validation pass, over all ranks.
    """

    manifest: Manifest

    def __init__(self, path: str, global_batch: int, seed: int = 0, validation_samples: int = 32) -> None:
        super().__init__()
        self.path, self.global_batch, self.seed, self.validation_samples = path, global_batch, seed, validation_samples

    @classmethod
    def check(cls, config: Any) -> None:
        """Read what there is to train on, and check the numbers, before a run's folder is made.

        Raises:
            ValueError: It is no data set of scored edits, or the numbers do not fit it.
        """
        manifest = Manifest.load(home.path(config.path))
        facts = ScoreFacts.of_manifest(manifest)
        if config.global_batch < 1 or config.global_batch % facts.per_group:
            msg = (
                f"data.global_batch {config.global_batch} must be a multiple of the {facts.per_group} edits of a group"
            )
            raise ValueError(msg)
        _plan(manifest, facts, config.global_batch, config.seed)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Read the manifest."""
        self.manifest = Manifest.load(home.path(self.path))
        self.facts = ScoreFacts.of_manifest(self.manifest)

    def kinds_in(self, split: str) -> list[str]:
        """Return the kinds of samples of a split."""
        return [KIND] if self.manifest.counts.get(split, {}).get(KIND) else []

    @property
    def micro_batch(self) -> int:
        """Groups that one rank loads at once.

        Raises:
            ValueError: The global batch can't be divided evenly into whole groups.
        """
        assert self.trainer is not None
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.global_batch % (parts * self.facts.per_group):
            msg = (
                f"data.global_batch {self.global_batch} must be a multiple of {self.trainer.world_size} processes x "
                f"{self.trainer.accumulate_grad_batches} accumulated micro-batches x {self.facts.per_group} edits of a "
                f"group = {parts * self.facts.per_group}"
            )
            raise ValueError(msg)
        return self.global_batch // parts // self.facts.per_group

    def train_dataloader(self) -> GroupLoader:
        """Return this rank's endless micro-batches, from the trainer's optimiser step on."""
        return GroupLoader(self)

    def val_dataloader(self) -> FixedBatches:
        """Return this rank's share of fixed groups whose sources training never shows; every rank has as many."""
        return FixedBatches(list(self.groups("validation", self.validation_samples)))

    def test_dataloader(self) -> FixedBatches:
        """Return the validation groups; the test split is for the scores (see ``RankingEvaluation``)."""
        return self.val_dataloader()

    def groups(self, split: str, number: int) -> Iterator[Batch]:
        """Yield this rank's share of the first groups of a split; every rank yields as many batches of equal sizes."""
        assert self.trainer is not None
        if not self.kinds_in(split):
            msg = f"{self.manifest.root} has no {split} split: run `unipic2-train {COMMAND}` with --held_out above 0"
            raise ValueError(msg)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        available = self.manifest.counts[split][KIND] // self.facts.per_group
        own = range(rank, min(number, available) // world * world, world)
        at_once = max(1, BATCH // self.facts.per_group)
        store = SampleStore(self.manifest, split, [KIND])
        for start in range(0, len(own), at_once):
            chosen = own[start : start + at_once]
            yield self.batch(store, chosen, [0] * len(chosen))

    def batch(self, store: SampleStore, groups: Sequence[int], visits: Sequence[int]) -> Batch:
        """Return whole groups as a batch, group after group."""
        k = self.facts.per_group
        samples = [store.sample(KIND, group * k + number) for group in groups for number in range(k)]
        each = [visit for visit in visits for _ in range(k)]
        return make_batch(samples, each, Transform((self.facts.size, self.facts.size)))

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on, to compare at resume."""
        return {"manifest": self.manifest.digest, "seed": self.seed, "global_batch": self.global_batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data.

        Raises:
            ValueError: Data, seed or global batch differ from the checkpoint's.
        """
        assert self.trainer is not None
        own = self.state_dict()
        changed = [f"{key}: {state_dict[key]} then, {own[key]} now" for key in own if own[key] != state_dict[key]]
        if changed and self.trainer.state.fn == TrainerFn.FITTING:
            msg = (
                "the checkpoint was trained on another sequence of groups (" + "; ".join(changed) + "). Resume with "
                "the run's own data keys, or start a new run."
            )
            raise ValueError(msg)


class GroupLoader:
    """Endless micro-batches of one rank, from the trainer's optimiser step on."""

    def __init__(self, data: ScoredEdits) -> None:
        self.data = data
        self.store = SampleStore(data.manifest, "train", [KIND])
        self.plan = _plan(data.manifest, data.facts, data.global_batch, data.seed)

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        data, trainer = self.data, self.data.trainer
        assert trainer is not None
        for number in count(trainer.global_step):
            step = self.plan.step(number)
            for micro in range(trainer.accumulate_grad_batches):
                rows = rank_rows(data.micro_batch, micro, trainer.global_rank, trainer.world_size)
                yield data.batch(self.store, step.indices[rows].tolist(), step.visits[rows].tolist())


def _plan(manifest: Manifest, facts: ScoreFacts, global_batch: int, seed: int) -> Plan:
    """Return the order of the training groups."""
    groups = manifest.kinds("train").get(KIND, 0) // facts.per_group
    return Plan({KIND: groups}, seed, global_batch // facts.per_group)
