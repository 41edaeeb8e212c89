"""The few exchanges between processes that an iteration needs; without processes they return their input."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "largest", "summed", "synchronise_gradients", "world_size"]


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, (W B, ...); every process has as many."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def summed(values: Tensor) -> Tensor:
    """Return the sum over processes."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """Return the maximum over processes."""
    if world_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def synchronise_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Average the gradients of parameters that every process holds whole; FSDP2 averages those that it shards."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
