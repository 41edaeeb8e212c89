"""Muon: momentum whose matrices are made orthogonal before they are applied, and AdamW for all that is no such matrix.

For a weight ``W`` (m, n) with gradient ``G``, momentum ``M``, learning rate ``lr`` (Jordan et al. 2024; Nesterov form):

    M <- b M + (1 - b) G
    U  = orthogonal(b M + (1 - b) G)              (nearest matrix whose singular values are all one)
    W <- (1 - lr * decay) W - lr * sqrt(max(1, m / n)) U

Every direction of a matrix moves by as much, also those that few samples ask for. The price is a few products per
matrix and step, whatever the batch, so batches should not be small.

Legend: S matrices of one shape, m/n their rows and columns.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Muon", "orthogonal"]

# Coefficients (a, b, c) of x <- a x + b x^3 + c x^5, which together bring singular values from [0.001, 1] near 1 in the
# fewest steps (Polar Express, Amsel et al. 2025, table of degree 5).
_STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
_SLACK = 1.01  # keeps singular values below 1 in spite of rounding


class Muon(AdamW):
    """One optimiser for a model's matrices (Muon) and its other parameters (AdamW).

    Args:
        groups: Parameter groups; one with ``momentum`` holds matrices for Muon, the others are AdamW's.
        defaults: Default values of AdamW's groups: ``lr``, ``betas``, ``eps``, ``weight_decay``.

    Raises:
        ValueError: A parameter with momentum that is no matrix.
    """

    def __init__(self, groups: list[dict[str, Any]], **defaults: Any) -> None:
        super().__init__(groups, **defaults, fused=True)
        moved = [parameter for group in self.param_groups if "momentum" in group for parameter in group["params"]]
        odd = [tuple(parameter.shape) for parameter in moved if parameter.ndim != 2]
        if odd:
            msg = f"Muon takes matrices, but parameters of shape {odd} are in a group with momentum"
            raise ValueError(msg)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if "momentum" in group:
                self._move_matrices(group)
        try:
            self.param_groups = [group for group in groups if "momentum" not in group]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        for (rows, columns), parameters in by_shape.items():
            moved = torch.stack([_full(self._momentum(parameter, momentum)) for parameter in parameters])
            updates = orthogonal(moved) * (rate * max(1.0, rows / columns) ** 0.5)
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - rate * group["weight_decay"]).sub_(_as(parameter, update))

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Add the gradient to the parameter's momentum and return the two mixed once more (Nesterov)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return torch.lerp(parameter.grad, state["momentum_buffer"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return approximately the nearest matrices whose singular values are all one.

    Four steps of an odd polynomial of the matrix, products alone: singular values above a hundredth of the Frobenius
    norm end between 0.4 and 1.6, which is near enough for a direction. float32 on a CPU, bfloat16 on a GPU.

    Args:
        matrices: (S, m, n).

    Returns:
        (S, m, n), of the same dtype.
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = wide if wide.device.type == "cpu" else wide.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * _SLACK + 1e-7)
    for a, b, c in _STEPS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    result = x.to(matrices.dtype)
    return result.mT if matrices.shape[-2] > matrices.shape[-1] else result


def _full(tensor: Tensor) -> Tensor:
    """Gather a shard, since a matrix is orthogonal as a whole or not at all."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _as(parameter: Tensor, update: Tensor) -> Tensor:
    """Return this rank's part of an update that every rank has in full."""
    if not isinstance(parameter, DTensor):
        return update
    return distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
