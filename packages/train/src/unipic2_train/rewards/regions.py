"""What an edit was to change, and how much of the rest stayed: pure functions of pictures.

The region of an edit is where the data's own target differs from its source by more than a threshold, and a little
around it.

Legend: B pictures, H/W height and width; pictures are float in [0, 1], (B, 3, H, W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["as_unit", "changed_region", "mean_square", "psnr", "ssim_map"]

THRESHOLD = 0.06  # of a channel, about 15 of 255: above compression and below any visible edit
WINDOW = 7  # of SSIM, pixels


def as_unit(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float in [0, 1], (B, 3, H, W)."""
    return pictures.permute(0, 3, 1, 2).float() / 255


def changed_region(sources: Tensor, targets: Tensor, margin: int | None = None) -> Tensor:
    """Return where an edit was to change something, bool (B, H, W).

    Args:
        sources: Before, (B, 3, H, W).
        targets: After, as the data has it.
        margin: Pixels around it that belong to it; by default a 32nd of the picture's edge, at least 1.
    """
    differs = ((sources - targets).abs().amax(1, keepdim=True) > THRESHOLD).float()
    margin = max(1, sources.shape[-1] // 32) if margin is None else margin
    return F.max_pool2d(differs, 2 * margin + 1, 1, margin)[:, 0] > 0


def mean_square(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Return the mean squared difference of two pictures within a region, (B,); NaN where it is empty."""
    square = ((one - other) ** 2).mean(1)
    return (square * where).sum((1, 2)) / where.sum((1, 2))


def psnr(square: Tensor, highest: float = 60.0) -> Tensor:
    """Return the peak signal-to-noise ratio of a mean squared difference in dB, at most ``highest``; same shape."""
    return (-10 * square.clamp(min=1e-12).log10()).clamp(max=highest)


def ssim_map(one: Tensor, other: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004) around each pixel, mean over channels, (B, H, W).

    Windows of 7 x 7 pixels, even weights and unbiased covariances, as in scikit-image; the edge is reflected.
    """
    pad = WINDOW // 2

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (pad, pad, pad, pad), mode="reflect"), WINDOW, 1)

    one, other = one.double(), other.double()
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mean_one, mean_other = mean(one), mean(other)
    variance_one = unbiased * (mean(one * one) - mean_one**2)
    variance_other = unbiased * (mean(other * other) - mean_other**2)
    covariance = unbiased * (mean(one * other) - mean_one * mean_other)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_one * mean_other + c1) / (mean_one**2 + mean_other**2 + c1)
    contrast = (2 * covariance + c2) / (variance_one + variance_other + c2)
    return (luminance * contrast).mean(1).to(torch.float32)
