"""Reward ``brightness``: how light a picture is. It asks for nothing that anyone wants."""

from __future__ import annotations

from torch import Tensor

from unipic2_train.rewards.base import Reward, RewardRequest

__all__ = ["BrightnessReward"]


class BrightnessReward(Reward):
    """Mean over all pixels, in [0, 1].

    Any model moves it in a few iterations, trained or not, and moves it at the cost of everything else: for trying a
    run in seconds, and for seeing the guards at work.
    """

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        return request.pictures.double().mean((1, 2, 3)) / 255
