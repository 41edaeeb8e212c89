"""Reward ``pickscore``: which of two pictures of a prompt people pick (Kirstain et al. 2023), by a finetuned CLIP-H."""

from __future__ import annotations

from torch import Tensor

from unipic2_train.rewards.base import RewardRequest
from unipic2_train.rewards.clip import ClipReward

__all__ = ["PickScoreReward"]

USUAL = 26.0  # scores of good pictures; Flow-GRPO divides by it, so that rewards are about 1


class PickScoreReward(ClipReward):
    """CLIP's logit, ``scale * cosine``, over 26: about 0.7 to 0.9.

    Args:
        model: Folder or hub id of the CLIP model, such as yuvalkirstain/PickScore_v1.
        revision: Commit of a hub id.
        device: Where it runs; ``cuda`` is this process's GPU.
    """

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        return super().__call__(request) * self.clip.scale / USUAL
