"""Share of questions that are answered right, by discipline, synchronised over ranks.

Circular, as MMBench: a question counts only if it is answered right with its options in all four rotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from unipic2_evals.report import wilson_interval
from unipic2_train.vlm.questions import DISCIPLINES

__all__ = ["AnswerScore"]


class AnswerScore(Metric):
    """Right answers by discipline: ``circular`` in all rotations, ``vanilla`` in the first."""

    full_state_update = False
    circular: Tensor
    vanilla: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("circular", "vanilla", "total"):
            self.add_state(name, torch.zeros(len(DISCIPLINES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: Tensor, disciplines: Sequence[str]) -> None:
        """Count a batch of questions.

        Args:
            right: Whether each rotation of each question is answered right, bool (questions, rotations).
            disciplines: Of each question.
        """
        for row, discipline in zip(right.tolist(), disciplines, strict=True):
            number = DISCIPLINES.index(discipline)
            self.circular[number] += all(row)
            self.vanilla[number] += row[0]
            self.total[number] += 1

    def compute(self) -> dict[str, Tensor]:
        """Return circular accuracy of each discipline seen, their mean ``overall``, and ``vanilla``."""
        seen = self.total > 0
        if not bool(seen.any()):
            return {}
        circular, vanilla = (part / self.total.clamp(min=1) for part in (self.circular, self.vanilla))
        scores = {name: circular[index] for index, name in enumerate(DISCIPLINES) if seen[index]}
        return {**scores, "overall": circular[seen].mean(), "vanilla": vanilla[seen].mean()}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per discipline and one for all: right, total, circular accuracy, its 95% Wilson interval."""
        counts = list(zip(DISCIPLINES, self.circular.tolist(), self.total.tolist(), strict=True))
        rows = []
        for name, right, total in [*counts, ("all", int(self.circular.sum()), int(self.total.sum()))]:
            if total:
                interval = wilson_interval(right, total)
                row = {"kind": "qa", "category": name, "correct": right, "total": total}
                rows.append(row | {"accuracy": interval.mean, "low": interval.low, "high": interval.high})
        return rows
