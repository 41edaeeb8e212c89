"""Batches of lessons, drawn and rendered as they are needed: there is no end of scenes, and nothing to store.

Lesson number n of a seed is always the same, and an optimiser step takes the next ``global_batch`` of them, so that the
order is a function of the seed and the optimiser step alone, whatever the number of processes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.batch import Batch
from unipic2_data.plan import rank_rows
from unipic2_data.shapes.render import render_batch
from unipic2_train.datamodule import FixedBatches, micro_batch
from unipic2_train.vlm.lessons import draw_lesson, question_lesson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unipic2_train.vlm.lessons import Lesson
    from unipic2_train.vlm.questions import Question

__all__ = ["LessonData", "LessonShares", "Questions"]

ENDLESS = 10**9  # Lightning loses a batch on resume if a loader has no length
BATCH = 64


@dataclass
class LessonShares:
    """Shares of the kinds of lessons, in sum 1; see ``unipic2_train.vlm.lessons``."""

    talk: float = 0.7
    """Pictures with questions and a caption."""
    edit: float = 0.15
    """Pictures with an instruction; the answer is what the edit makes of them."""
    reading: float = 0.15
    """Prompts and instructions without a picture."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        shares = list(vars(self).values())
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            msg = f"data.shares must be at least 0 and 1 in sum, not {vars(self)}"
            raise ValueError(msg)


@dataclass
class Questions:
    """Questions about scenes of one split."""

    pictures: torch.Tensor
    """uint8 (N, H, W, 3)."""
    questions: list[Question]
    """One a picture."""


@dataclass(frozen=True)
class LessonPlan:
    """What the lessons depend on, in the place of a data set's manifest."""

    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """Hash of all settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


class LessonData(LightningDataModule):
    """Lessons of the quick shapes world.

    Args:
        size: Edge of the pictures, in pixels; a multiple of what one of the model's tokens sees.
        global_batch: Lessons per optimiser step, over all ranks and micro-batches.
        turns: Questions about one picture, at most, and the request for its caption, which comes last.
        shares: How often each kind of lesson comes.
        seed: Seed of all draws.
        validation_samples: Lessons of a validation pass, over all ranks.
    """

    def __init__(
        self,
        size: int = 32,
        global_batch: int = 32,
        turns: int = 2,
        shares: LessonShares | None = None,
        seed: int = 0,
        validation_samples: int = 128,
    ) -> None:
        super().__init__()
        self.size, self.global_batch, self.turns, self.seed = size, global_batch, turns, seed
        self.shares, self.validation_samples = shares or LessonShares(), validation_samples
        self.manifest = LessonPlan({"size": size, "turns": turns, "shares": vars(self.shares), "seed": seed})

    @classmethod
    def check(cls, config: Any) -> None:
        """Look at the sizes before a run's folder is made.

        Raises:
            ValueError: They make no sense.
        """
        if min(config.size, config.global_batch, config.turns, config.validation_samples) < 1 or config.size % 2:
            msg = "data.size must be even, and size, global_batch, turns and validation_samples at least 1"
            raise ValueError(msg)

    def setup(self, stage: str) -> None:
        """Do nothing: there is nothing to read."""

    def kinds_in(self, split: str) -> list[str]:  # noqa: ARG002 - every split has them
        """Return the kinds of samples."""
        return ["qa"]

    @property
    def micro_batch(self) -> int:
        """Lessons that one rank loads at once.

        Raises:
            ValueError: The global batch can't be divided evenly.
        """
        assert self.trainer is not None
        return micro_batch(self.trainer, self.global_batch)

    def train_dataloader(self) -> LessonLoader:
        """Return this rank's endless micro-batches, from the trainer's optimiser step on."""
        assert self.trainer is not None
        return LessonLoader(self, self.trainer.global_step)

    def val_dataloader(self) -> FixedBatches:
        """Return this rank's share of fixed lessons about scenes that training never shows."""
        assert self.trainer is not None
        each = max(1, self.validation_samples // self.trainer.world_size)
        first = self.trainer.global_rank * each
        starts = range(first, first + each, BATCH)
        return FixedBatches([self.batch("validation", range(s, min(s + BATCH, first + each))) for s in starts])

    def test_dataloader(self) -> FixedBatches:
        """Return the validation lessons; answers are scored on the test split (see ``AnswerEvaluation``)."""
        return self.val_dataloader()

    def batch(self, split: str, indices: Sequence[int]) -> Batch:
        """Return lessons as a batch; ``reference_bytes`` holds the pictures of the rows that have one, in order."""
        lessons = [draw_lesson(split, self.seed, index, vars(self.shares), self.turns) for index in indices]
        return Batch(
            kind="qa",
            keys=[lesson.key for lesson in lessons],
            visits=torch.zeros(len(lessons), dtype=torch.int64),
            prompts=[lesson.turns[0][0] for lesson in lessons],
            size=(self.size, self.size),
            weight=torch.ones(len(lessons)),
            meta=[_meta(lesson) for lesson in lessons],
            reference_bytes=_pictures([lesson.scene for lesson in lessons if lesson.scene is not None], self.size),
        )

    def questions(self, split: str, number: int) -> Iterator[Questions]:
        """Yield this rank's share of the first questions about scenes of a split; every rank yields as many."""
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        own = range(rank, number // world * world, world)
        for start in range(0, len(own), BATCH):
            drawn = [question_lesson(split, self.seed, index) for index in own[start : start + BATCH]]
            yield Questions(_pictures([scene for scene, _ in drawn], self.size), [question for _, question in drawn])

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on, to compare at resume."""
        return {**self.manifest.settings, "global_batch": self.global_batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other lessons.

        Raises:
            ValueError: They differ from the checkpoint's.
        """
        assert self.trainer is not None
        own = self.state_dict()
        changed = [f"{key}: {state_dict[key]} then, {own[key]} now" for key in own if own[key] != state_dict[key]]
        if changed and self.trainer.state.fn == TrainerFn.FITTING:
            msg = (
                "the checkpoint was trained on another sequence of lessons (" + "; ".join(changed) + "). Resume with "
                "the run's own data keys, or start a new run."
            )
            raise ValueError(msg)


class LessonLoader:
    """Micro-batches of one rank, from an optimiser step on."""

    def __init__(self, data: LessonData, start_step: int) -> None:
        self.data, self.start_step = data, start_step

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        data, trainer = self.data, self.data.trainer
        assert trainer is not None
        accumulate = trainer.accumulate_grad_batches
        for number in count(self.start_step * accumulate):
            step, micro = divmod(number, accumulate)
            lessons = range(step * data.global_batch, (step + 1) * data.global_batch)
            rows = rank_rows(data.micro_batch, micro, trainer.global_rank, trainer.world_size)
            yield data.batch("train", lessons[rows])


def _meta(lesson: Lesson) -> dict[str, Any]:
    return {"lesson": lesson.kind, "picture": lesson.scene is not None, "turns": [list(turn) for turn in lesson.turns]}


def _pictures(scenes: Sequence[Any], size: int) -> torch.Tensor:
    return torch.from_numpy(render_batch(scenes, size)) if scenes else torch.empty(0, size, size, 3, dtype=torch.uint8)
