"""The rows of every iteration: prompts and edits to sample from, the same on every process.

The order is a function of (data, seed, iteration), so that the only state is the number of iterations done.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from unipic2_data.batch import Batch
from unipic2_data.loader import SampleStore, make_batch
from unipic2_data.manifest import Manifest
from unipic2_data.plan import Plan, Step
from unipic2_data.transform import Transform
from unipic2_train import home
from unipic2_train.datamodule import ShardData
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.prompts import PromptRow, PromptsConfig, make_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RolloutData"]

_ENDLESS = 10**9  # Lightning loses a batch on resume if a loader has no length


class RolloutData(ShardData):
    """Rows to sample from, and evaluation batches of all kinds that the data has.

    Args:
        path: Folder of canonical shards, or ``home:PRESET/shapes``: edits to train on, and what is evaluated.
        size: Edge of the square pictures, in pixels.
        global_batch: Images of an iteration, over all processes and groups.
        group_size: Images of a group: of one row.
        tasks: Share of iterations by kind, e.g. ``{edit: 1}``.
        prompts: Generated text-to-image prompts; ``null``: the captions of the data.
        seed: Seed of the order.
        validation_samples: Samples of each kind in a validation pass, over all processes.
    """

    def __init__(
        self,
        path: str,
        size: int,
        global_batch: int,
        group_size: int,
        tasks: dict[str, float],
        prompts: PromptsConfig | None = None,
        seed: int = 0,
        validation_samples: int = 256,
    ) -> None:
        super().__init__(path, size, global_batch, tasks, seed, validation_samples=validation_samples)
        self.group_size, self.prompts = group_size, prompts

    @classmethod
    def check(cls, config: Any) -> None:
        """Read what there is to train on, and check the numbers, before a run's folder is made."""
        layout = Layout(config.global_batch, config.group_size)
        counts = Manifest.load(home.path(config.path)).kinds("train")
        _plan(counts, layout, config.seed, config.tasks, make_prompts(config.prompts) if config.prompts else [])

    @property
    def layout(self) -> Layout:
        """Groups, images and processes."""
        assert self.trainer is not None
        return Layout(self.global_batch, self.group_size, self.trainer.world_size, self.trainer.global_rank)

    @property
    def kinds(self) -> list[str]:
        """What is evaluated: both tasks, whichever is trained, since training one must not spoil the other."""
        assert self.manifest is not None
        return [kind for kind in ("t2i", "edit") if self.manifest.kinds("train").get(kind)]

    def train_dataloader(self) -> Any:
        """Return the rows of each iteration (`Iterations`), from the trainer's iteration on."""
        assert self.manifest is not None
        assert self.trainer is not None
        rows = make_prompts(self.prompts) if self.prompts else []
        plan = _plan(self.manifest.kinds("train"), self.layout, self.seed, self.tasks, rows)
        stored = [kind for kind in plan.tasks if not (rows and kind == "t2i")]
        store = SampleStore(self.manifest, "train", stored) if stored else None
        return Iterations(plan, store, rows, self.size, self.seed, self.trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on, to compare at resume."""
        prompts = None if self.prompts is None else vars(self.prompts)
        return super().state_dict() | {"group_size": self.group_size, "prompts": prompts}


class Iterations:
    """Endless batches of rows, one batch an iteration.

    Args:
        plan: Which rows each iteration uses.
        store: The data's samples.
        rows: Generated prompts, which stand for text-to-image samples, or none.
        size: Edge of the pictures, in pixels.
        seed: Seed of the choice among captions.
        start: Iterations done before.
    """

    def __init__(
        self, plan: Plan, store: SampleStore | None, rows: list[PromptRow], size: int, seed: int, start: int = 0
    ) -> None:
        self.plan, self.store, self.rows, self.seed, self.start = plan, store, rows, seed, start
        self.transform = Transform((size, size))

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        return (self._batch(self.plan.step(number)) for number in count(self.start))

    def _batch(self, step: Step) -> Batch:
        if step.kind == "t2i" and self.rows:
            chosen = [self.rows[index] for index in step.indices.tolist()]
            return Batch(
                kind="t2i",
                keys=[row.key for row in chosen],
                visits=torch.from_numpy(step.visits),
                prompts=[row.text for row in chosen],
                size=self.transform.size,
                weight=torch.ones(len(chosen)),
                meta=[row.meta for row in chosen],
            )
        assert self.store is not None
        samples = [self.store.sample(step.kind, index) for index in step.indices.tolist()]
        return make_batch(samples, step.visits, self.transform, self.seed)


def _plan(
    counts: dict[str, int], layout: Layout, seed: int, tasks: dict[str, float] | None, rows: list[PromptRow]
) -> Plan:
    if rows:
        counts = {**counts, "t2i": len(rows)}
    return Plan(counts, seed, layout.groups, tasks)
