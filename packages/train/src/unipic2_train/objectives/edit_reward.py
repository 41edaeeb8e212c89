"""The edit reward's objective: what a judge said of each edit, and the order of the edits of a group.

With z what is predicted and y what the judge said, both in standard deviations of all scores around their mean::

    loss = mean over edits of huber(z - y)
         + weight * mean over groups of  mean over pairs with y_i - y_j > tie of  -log sigmoid(sharpness (z_i - z_j))

The first term is UniPic 2.0's regression; the second is Bradley and Terry's model of preferences, and looks at what
reinforcement uses of a reward: how the edits of one group compare. An edit that the judge failed on has no score (NaN).

Legend: N groups, k edits of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EditRewardLoss", "EditRewardObjective", "edit_reward_loss", "ordered_pairs"]

ROUNDING = 1e-6
"""Standardised scores of equal judgements differ by less."""


@dataclass
class EditRewardObjective:
    """Weights of the two terms."""

    huber: float = 1.0
    """Where the regression turns from squares to absolute values, in standard deviations."""
    ranking: float = 0.5
    """Weight of the ranking; 0: regression alone, as in the report."""
    sharpness: float = 3.0
    """How sure of an order a difference of one standard deviation is."""
    tie: float = 0.0
    """Scores of a group that differ by no more have no order, in standard deviations."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.huber <= 0 or self.sharpness <= 0 or min(self.ranking, self.tie) < 0:
            msg = f"objective: huber and sharpness must be above 0, ranking and tie at least 0, not {vars(self)}"
            raise ValueError(msg)


class EditRewardLoss(NamedTuple):
    """The loss and what the monitor needs of it."""

    loss: Tensor
    """Scalar to minimise."""
    per_row: Tensor
    """What each edit adds, with the ranking of its group, detached, (N * k,)."""


def edit_reward_loss(predicted: Tensor, scores: Tensor, config: EditRewardObjective) -> EditRewardLoss:
    """Return the loss of whole groups.

    The mean is over all edits and groups, those without a score or an order included (they add 0), so that processes
    average to the global batch.

    Args:
        predicted: z, (N, k).
        scores: y, NaN where there is none, (N, k).
        config: Weights.
    """
    known = scores.isfinite()
    right = torch.where(known, scores, 0.0)
    errors = F.huber_loss(predicted, right, reduction="none", delta=config.huber) * known  # (N, k)
    ordered = ordered_pairs(scores, config.tie)
    doubts = F.softplus(config.sharpness * (predicted[:, None, :] - predicted[:, :, None]))  # (N, k, k)
    ranking = (doubts * ordered).sum((1, 2)) / ordered.sum((1, 2)).clamp(min=1)  # (N,)
    per_row = errors + config.ranking * ranking[:, None]
    return EditRewardLoss(per_row.mean(), per_row.detach().flatten())


def ordered_pairs(scores: Tensor, tie: float) -> Tensor:
    """Tell which edits i of a group are better than which others j, bool (N, k, k); NaN is neither."""
    return scores[:, :, None] - scores[:, None, :] > tie + ROUNDING
