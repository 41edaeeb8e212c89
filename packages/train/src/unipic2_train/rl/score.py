"""The second verb: turn finished latents into pictures, and pictures into scores of all processes.

Every reward sees this process's images in one call; scores are then gathered, so that a group's mean and std are over
all of its images wherever they were made.

Legend: B images of this process, N of all, R rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipic2_train.rewards.base import RewardRequest, scores_of
from unipic2_train.rl.collective import gather_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unipic2_data.batch import Batch
    from unipic2_train.rewards.base import Reward, WeightedReward
    from unipic2_train.rl.layout import Layout
    from unipic2_train.rl.rollout import Rollout
    from unipic2_train.system import FrozenParts

__all__ = ["Scores", "judged", "request_of", "score"]


@dataclass
class Scores:
    """What the images of an iteration are worth."""

    names: list[str]
    """Of the rewards, R."""
    weights: Tensor
    """Of the rewards, float64 (R,)."""
    rewards: Tensor
    """Of all images, float64 (N, R); NaN where one failed."""
    request: RewardRequest
    """This process's pictures."""

    @property
    def failures(self) -> float:
        """Share of images with a failed score."""
        return float(self.rewards.isnan().any(1).double().mean())


def score(
    frozen: FrozenParts, rollout: Rollout, batch: Batch, layout: Layout, rewards: Mapping[str, WeightedReward]
) -> Scores:
    """Decode this process's images and score them by the rewards that know their kind.

    Args:
        frozen: The VAE.
        rollout: Finished latents.
        batch: The rows of the iteration.
        layout: Which images are this process's.
        rewards: Rewards by name.

    Raises:
        ValueError: No reward scores this kind, or one returned nonsense.
    """
    chosen = {name: entry for name, entry in rewards.items() if batch.kind in entry.reward.kinds}
    if not chosen:
        msg = f"no reward scores {batch.kind} pictures: model.rewards has {', '.join(rewards) or 'none'}"
        raise ValueError(msg)
    request = request_of(batch, layout, frozen, rollout)
    columns = [scores_of(name, entry.reward, request) for name, entry in chosen.items()]
    own = torch.stack(columns, 1).to(rollout.latents.device)
    weights = torch.tensor([entry.weight for entry in chosen.values()], dtype=torch.float64)
    return Scores(list(chosen), weights, gather_rows(own).cpu(), request)


def judged(reward: Reward, request: RewardRequest, device: torch.device) -> Tensor:
    """Return the scores of all processes' pictures by one more judge, float64 (N,)."""
    return gather_rows(scores_of("held_out", reward, request).to(device)).cpu()


def request_of(batch: Batch, layout: Layout, frozen: FrozenParts, rollout: Rollout) -> RewardRequest:
    """Return this process's pictures with the rows that they were made for."""
    chunk = 64  # pictures decoded at once
    pictures = torch.cat([frozen.decode(part) for part in rollout.latents.split(chunk)])
    groups = layout.group_of[layout.own]
    rows = groups.tolist()
    return RewardRequest(
        kind=batch.kind,
        pictures=pictures,
        prompts=[batch.prompts[row] for row in rows],
        groups=[batch.keys[row] for row in rows],
        meta=[batch.meta[row] for row in rows],
        sources=None if batch.references is None else _to_bytes(batch.references)[groups],
        targets=None if batch.pixels is None else _to_bytes(batch.pixels)[groups],
        readable=batch.weight.cpu()[groups] > 0,
    )


def _to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] (B, 3, H, W) -> uint8 (B, H, W, 3) on the CPU."""
    return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu()
