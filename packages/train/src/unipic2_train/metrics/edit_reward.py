"""How well a reward orders the edits of a group as the judge does, synchronised over ranks.

Legend: N groups, k edits of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from unipic2_evals.report import Interval, bootstrap_interval
from unipic2_train.objectives.edit_reward import ordered_pairs

__all__ = ["RankingScore", "spearman"]


class RankingScore(Metric):
    """Accuracy on the untied pairs within groups, an equal prediction counting half, and rank correlation.

    Args:
        tie: Scores that differ by no more are tied, in standard deviations.
    """

    full_state_update = False
    predicted: list[Tensor]
    scores: list[Tensor]

    def __init__(self, tie: float = 0.0) -> None:
        super().__init__()
        self.tie = tie
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, scores: Tensor) -> None:
        """Take groups.

        Args:
            predicted: In standard deviations, (N, k).
            scores: The judge's, likewise, NaN where there is none, (N, k).
        """
        self.predicted.append(predicted.detach().float())
        self.scores.append(scores.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Return ``accuracy``, ``spearman`` over all edits, and ``error``, the root mean square; without pairs less."""
        if not len(self.predicted):  # a list, or what all ranks have as one tensor
            return {}
        predicted, scores = dim_zero_cat(self.predicted), dim_zero_cat(self.scores)
        known = scores.isfinite()
        if not bool(known.any()):
            return {}
        found = {
            "spearman": spearman(predicted[known], scores[known]),
            "error": (predicted[known] - scores[known]).square().mean().sqrt(),
        }
        ordered, right = self._pairs(predicted, scores)
        return found | ({"accuracy": right[ordered].mean()} if bool(ordered.any()) else {})

    def accuracy(self) -> Interval | None:
        """Return the accuracy with its 95% interval by a bootstrap over groups; ``None`` without an untied pair.

        After ``compute``, inside ``sync_context``: of all ranks.
        """
        ordered, right = self._pairs(dim_zero_cat(self.predicted), dim_zero_cat(self.scores))
        groups = ordered.nonzero()[:, 0].tolist()
        return bootstrap_interval(right[ordered].tolist(), groups) if groups else None

    def row(self) -> dict[str, Any]:
        """Return edits, groups, untied pairs, and the accuracy on them with its interval."""
        scores = dim_zero_cat(self.scores)
        row: dict[str, Any] = {"groups": len(scores), "edits": int(scores.isfinite().sum())}
        interval = self.accuracy()
        if interval is None:
            return row | {"pairs": 0}
        return row | {"pairs": interval.total, "accuracy": interval.mean, "low": interval.low, "high": interval.high}

    def _pairs(self, predicted: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pairs have an order, bool (N, k, k), and whether it is predicted: 1, 0, or 0.5 for a tie."""
        difference = predicted[:, :, None] - predicted[:, None, :]
        return ordered_pairs(scores, self.tie), (difference.sign() + 1) / 2


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Return the correlation of ranks, of which equal values share their mean; 0 if all values of one are equal."""
    ranks = torch.from_numpy(np.stack([_ranks(values.cpu().double().numpy()) for values in (one, other)]))
    centred = ranks - ranks.mean(1, keepdim=True)
    norm = centred.norm(dim=1).prod()
    return (centred.prod(0).sum() / norm if norm > 0 else norm).float().to(one.device)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
