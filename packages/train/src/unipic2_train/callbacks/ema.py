"""Exponential moving average of the trainable parameters, plain or sharded.

Only what is trained is averaged: a frozen text encoder or VAE is never copied. Under FSDP2 the average is sharded as
the parameters are, so it costs each rank its share and no more.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from unipic2_train.strategy import EMA_KEY
from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lightning.pytorch import LightningModule, Trainer

__all__ = ["ExponentialMovingAverage", "averaged_weights"]


class ExponentialMovingAverage(Callback):
    """Average the trainable parameters after every optimiser step.

    ``ema <- d ema + (1 - d) parameter`` with ``d = min(decay, (1 + n) / (10 + n))`` after ``n`` steps, so that a short
    run is not averaged with its initial weights.

    Args:
        decay: Upper bound of the decay ``d``, in [0, 1).

    Raises:
        ValueError: ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            msg = f"EMA decay must be in [0, 1), not {decay}"
            raise ValueError(msg)
        self.decay = decay
        self.average: dict[str, Tensor] | None = None
        self.num_updates = 0
        self._swap = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the average at the current parameters, unless a checkpoint brought one."""
        if self.average is None:
            reshard(pl_module)
            self.average = {n: p.detach().clone() for n, p in trainable_parameters(pl_module).items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update once per optimiser step, whatever the gradient accumulation."""
        if trainer.global_step > self.num_updates:
            self.update(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validate the average: losses, grids and scores are those of the model that is exported."""
        if self.average is not None:
            self._swap.enter_context(self.applied(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Go back to the raw weights."""
        self._swap.close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test the average."""
        self.on_validation_start(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the raw weights."""
        self.on_validation_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Go back to the raw weights if a validation was cut short."""
        self._swap.close()

    def update(self, module: nn.Module) -> None:
        """Move the average towards the current parameters."""
        assert self.average is not None
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        reshard(module)
        parameters = trainable_parameters(module)
        averages = [_local(self.average[name]) for name in parameters]
        current = [_local(parameter.detach()) for parameter in parameters.values()]
        torch._foreach_lerp_(averages, current, 1.0 - decay)
        self.num_updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the module for the block; afterwards the raw parameters are back, bit for bit."""
        if self.average is None:
            msg = "the EMA is empty: training has not started and no checkpoint was loaded"
            raise RuntimeError(msg)
        # After a forward without gradients FSDP2 keeps the root unsharded, and what is written then is lost.
        reshard(module)
        raw = {name: _local(p.detach()).clone() for name, p in trainable_parameters(module).items()}
        _write(module, {name: _local(value) for name, value in self.average.items()})
        try:
            yield
        finally:
            reshard(module)
            _write(module, raw)

    def state_dict(self) -> dict[str, int]:
        """Return the number of updates; the tensors travel beside the parameters."""
        return {"num_updates": self.num_updates}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of updates."""
        self.num_updates = state_dict["num_updates"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Hand the tensors to the strategy."""
        checkpoint[EMA_KEY] = self.average

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Take the tensors that the strategy has loaded."""
        self.average = checkpoint[EMA_KEY]


def averaged_weights(trainer: Trainer) -> AbstractContextManager[None]:
    """Return a context in which the trained module holds its EMA; the raw weights if the run keeps no EMA."""
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, ExponentialMovingAverage) and callback.average is not None:
            return callback.applied(trainer.lightning_module)
    return nullcontext()


def reshard(module: nn.Module) -> None:
    """Let every FSDP2 module of ``module`` go back to its sharded parameters; a plain module stays as it is."""
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


@torch.no_grad()
def _write(module: nn.Module, values: dict[str, Tensor]) -> None:
    for name, parameter in trainable_parameters(module).items():
        _local(parameter).copy_(values[name])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
