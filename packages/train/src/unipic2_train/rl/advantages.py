"""From rewards to advantages, over all images of an iteration (gathered from all processes), in float64.

A group is the images of one row of the data: one prompt, and for edits one source. With rewards R_i of a group::

    A_i = (R_i - mean_group(R)) / (std + 1e-4)          std of the group, or of all images of the iteration

(Flow-GRPO, Liu et al. 2025, eq. 4; standard deviations are those of the population.) Several rewards are summed by
their weights first, or (GDPO) each is normalised within its group, then summed, then the sum is normalised over the
iteration, so that no reward's scale decides.

A failed score is NaN: its image is left out of its group's mean and std and gets no advantage. A group whose valid
images all score alike teaches nothing and is dropped.

Legend: N images, R rewards, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unipic2_train.rl.config import AdvantageConfig

__all__ = ["Advantages", "advantages", "group_statistics", "informative", "total_reward"]

EPSILON = 1e-4


class Advantages(NamedTuple):
    """Advantages of all images of an iteration."""

    values: Tensor
    """Float64 (N,), clipped; 0 where not kept."""
    kept: Tensor
    """Whether an image is trained on, bool (N,)."""


def advantages(rewards: Tensor, weights: Tensor, groups: Tensor, config: AdvantageConfig) -> Advantages:
    """Return the advantage of every image.

    Args:
        rewards: Scores, (N, R); NaN where one failed.
        weights: Weight of each reward, (R,).
        groups: Number of each image's group, int64 (N,), from 0.
        config: How to combine and normalise.
    """
    rewards, weights = rewards.double(), weights.double()
    valid = ~rewards.isnan().any(1)
    total = total_reward(rewards, weights)
    if config.combine == "sum":
        kept = informative(total, groups, valid)
        values = _normalised(total, groups, valid, total[valid].std(correction=0) if config.std == "global" else None)
    else:
        columns = [_normalised(column, groups, valid, None) for column in rewards.T]
        kept = torch.stack([informative(column, groups, valid) for column in rewards.T]).any(0)
        summed = (torch.stack(columns, 1) * weights).sum(1)
        chosen = summed[kept]
        values = (summed - chosen.mean()) / (chosen.std(correction=0) + EPSILON) if len(chosen) else summed
    return Advantages(values.where(kept, 0.0).clamp(-config.clip, config.clip), kept)


def total_reward(rewards: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of each image's rewards, (N,); NaN where one failed."""
    return (rewards.double() * weights.double()).sum(1)


def group_statistics(values: Tensor, groups: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population std of the valid values of each image's group, (N,) each; 0 for an empty group."""
    num_groups = int(groups.max()) + 1
    clean = values.where(valid, 0.0)
    count = values.new_zeros(num_groups).index_add(0, groups, valid.to(values.dtype)).clamp(min=1)
    mean = (values.new_zeros(num_groups).index_add(0, groups, clean) / count)[groups]
    square = ((values - mean) ** 2).where(valid, 0.0)
    std = (values.new_zeros(num_groups).index_add(0, groups, square) / count).sqrt()[groups]
    return mean, std


def informative(values: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """Return which valid images belong to a group whose valid values differ, bool (N,).

    By the extremes, not by a std that rounding keeps from 0.
    """
    num_groups = int(groups.max()) + 1
    extreme = values.new_full((num_groups,), torch.inf)
    low = extreme.scatter_reduce(0, groups, values.where(valid, torch.inf), "amin")
    high = (-extreme).scatter_reduce(0, groups, values.where(valid, -torch.inf), "amax")
    return valid & (high > low)[groups]


def _normalised(values: Tensor, groups: Tensor, valid: Tensor, std: Tensor | None) -> Tensor:
    mean, own = group_statistics(values, groups, valid)
    return ((values - mean) / ((own if std is None else std) + EPSILON)).where(valid, 0.0)
