"""DiffusionNFT's old policy: the weights that sample, which follow those in training with a delay.

``old <- d old + (1 - d) model`` after every iteration, with the same d from the first one on: while old equals the
model, positive and negative policy are one, and their contrast teaches nothing (UniRL#420).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OldPolicy"]


class OldPolicy:
    """A second value of the trainable parameters, sharded as they are.

    Args:
        module: The model; the old policy starts as it is now.
        decay: d.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        _reshard(module)
        self.values = {n: _local(p.detach()).clone() for n, p in trainable_parameters(module).items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the old policy into the module for the block; afterwards the weights in training are back."""
        _reshard(self.module)  # After a forward without gradients FSDP2 would lose what is written.
        current = {n: _local(p.detach()).clone() for n, p in trainable_parameters(self.module).items()}
        self._write(self.values)
        try:
            yield
        finally:
            _reshard(self.module)
            self._write(current)

    def follow(self) -> None:
        """Move towards the weights in training."""
        _reshard(self.module)
        for name, parameter in trainable_parameters(self.module).items():
            self.values[name].lerp_(_local(parameter.detach()), 1.0 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the full tensors on the CPU, by name; a collective call under FSDP."""
        return {name: _full(self._like(name, value)).cpu() for name, value in self.values.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take full tensors; under FSDP each process keeps its shard."""
        for name, parameter in trainable_parameters(self.module).items():
            value = state[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
            self.values[name] = _local(value).clone()

    def _like(self, name: str, local: Tensor) -> Tensor:
        parameter = trainable_parameters(self.module)[name]
        if not isinstance(parameter, DTensor):
            return local
        shape, stride = parameter.shape, parameter.stride()
        return DTensor.from_local(local, parameter.device_mesh, parameter.placements, shape=shape, stride=stride)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in trainable_parameters(self.module).items():
            _local(parameter).copy_(values[name])


def _reshard(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
