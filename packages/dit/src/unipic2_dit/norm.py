"""Normalisation kernels of the transformer.

Legend: D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RmsNorm", "layer_norm"]

EPS = 1e-6


def layer_norm(tokens: Tensor) -> Tensor:
    """Normalise each token to mean 0 and variance 1, without weights, shape (..., D)."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)


class RmsNorm(nn.Module):
    """Divide by the root mean square of the last dimension and multiply by a weight (Zhang and Sennrich 2019).

    Args:
        width: Size D of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., D) to (..., D), in the dtype of ``values``."""
        # PyTorch has a fused kernel on accelerators; on the CPU it runs some twenty small ones for a training step.
        if values.device.type == "cpu" and values.dtype == torch.float32:
            normed: Tensor = _RmsNormFunction.apply(values, self.weight)
            return normed
        return F.rms_norm(values, self.weight.shape, self.weight.to(values.dtype), EPS)


class _RmsNormFunction(torch.autograd.Function):
    """``y = w * x_hat`` with ``x_hat = x / rms`` and ``rms = sqrt(mean(x^2) + eps)``, with its gradient written out.

    ``dx = (w * dy - x_hat * mean(w * dy * x_hat)) / rms`` and ``dw = sum(dy * x_hat)``.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor) -> Tensor:
        scale = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = scale.square_().div_(values.shape[-1]).add_(EPS).rsqrt_()
        normed = values * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        mean = (product @ weight).div_(-weight.shape[0]).unsqueeze(-1)
        return torch.addcmul(grad * weight, normed, mean).mul_(scale), grad_weight
