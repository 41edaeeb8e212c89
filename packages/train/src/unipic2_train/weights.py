"""Filling modules that were built on the meta device, parameter by parameter, sharded or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unipic2_dit import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["fill", "full_values", "stored_values"]


@torch.no_grad()
def fill(module: nn.Module, value: Callable[[str, Sequence[int]], Tensor]) -> None:
    """Give every parameter its value.

    Args:
        module: With storage; parameters may be DTensors.
        value: Returns the full value of a parameter from its name and shape, the same on every rank.
    """
    for name, parameter in module.named_parameters():
        full = value(name, parameter.shape)
        if isinstance(parameter, DTensor):
            # src_data_rank=None: every rank has the full value, so nothing is communicated.
            full = full.to(parameter.device)
            parameter.copy_(distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None))
        else:
            parameter.copy_(full)


def full_values(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters, frozen ones too, as full CPU tensors by name; a collective call under FSDP."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().clone()
        for name, value in module.named_parameters()
    }


def stored_values(folder: Path, module: nn.Module) -> Callable[[str], Tensor]:
    """Return a reader of single stored tensors, after checking that the files hold exactly the model's.

    Args:
        folder: With safetensors.
        module: The model, which may be on the meta device.

    Raises:
        CheckpointError: The weights are missing or do not fit.
    """
    from safetensors import safe_open

    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    checkpoint.check_weights(checkpoint.weight_shapes(folder), expected, folder)
    where = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            where.update(dict.fromkeys(weights.keys(), file))

    def read(name: str) -> Tensor:
        with safe_open(where[name], framework="pt") as weights:
            return weights.get_tensor(name).float()

    return read
