"""Reward ``preservation``: what an edit was not to change looks as before."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unipic2_train.rewards.base import Reward, RewardRequest
from unipic2_train.rewards.regions import as_unit, changed_region, mean_square, psnr, ssim_map

__all__ = ["PreservationReward"]

HIGHEST = 40.0  # dB that count as unchanged


class PreservationReward(Reward):
    """Likeness of source and result outside the region of the edit (see ``regions``), in [0, 1].

    Alone it rewards doing nothing: give it a weight beside a reward for following the instruction. A picture whose
    whole area was to change has nothing to preserve, and no score.

    Args:
        measure: ``psnr``: the peak signal-to-noise ratio over 40 dB, at most 1; ``ssim``: the mean structural
            similarity, at least 0.
    """

    kinds = ("edit",)

    def __init__(self, measure: Literal["psnr", "ssim"] = "ssim") -> None:
        self.measure = measure

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        if request.sources is None or request.targets is None:
            msg = "preservation needs each edit's source and target, which the canonical kind `edit` has"
            raise ValueError(msg)
        pictures, sources, targets = map(as_unit, (request.pictures, request.sources, request.targets))
        outside = ~changed_region(sources, targets)
        if self.measure == "psnr":
            return psnr(mean_square(pictures, sources, outside), HIGHEST) / HIGHEST
        # A window at the edge of the region would see into it: there the source stands on both sides.
        pictures = torch.where(outside[:, None], pictures, sources)
        return ((ssim_map(pictures, sources) * outside).sum((1, 2)) / outside.sum((1, 2))).clamp(min=0)
