"""Lightning strategies that write one kind of training checkpoint, on one device or under FSDP2.

``SingleDevice`` is the plain loop. ``Sharded`` is FSDP2 through Lightning's ``ModelParallelStrategy``, on CPU (gloo) or
GPU (nccl). Both store trainable state only, by parameter name (see ``training_checkpoint``), so that a run goes on at
another world size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from torch.distributed.tensor import DTensor

from unipic2_train import training_checkpoint
from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer
    from lightning.pytorch.strategies.strategy import Strategy

__all__ = ["EMA_KEY", "Sharded", "SingleDevice"]

EMA_KEY = "ema"
"""Where the EMA callback puts its tensors in Lightning's checkpoint dictionary."""


class SingleDevice(SingleDeviceStrategy):
    """One process on one device, with trainable-only checkpoint folders."""

    strategy_name = "unipic2_single"

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Restore when the optimisers exist, because one call restores all of it."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Leave the optimiser to ``load_checkpoint``."""
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return nothing: ``save_checkpoint`` collects the trainable parameters itself."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: ``save_checkpoint`` collects the optimiser's state itself."""
        return {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Do nothing: ``load_checkpoint`` has done it."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Do nothing: ``load_checkpoint`` has done it."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        filepath: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002
    ) -> None:
        """Write the folder ``filepath``."""
        _save(self, checkpoint, Path(filepath))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load the folder ``checkpoint_path`` into module and optimisers; return the rest."""
        return _load(self, Path(checkpoint_path))

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a checkpoint folder."""
        training_checkpoint.remove(Path(filepath))


class Sharded(ModelParallelStrategy):
    """FSDP2 data parallelism over all processes.

    Stock ``ModelParallelStrategy()`` on one node means *tensor* parallelism over all devices and synchronises no
    gradient without saying so; here the data-parallel size is always the world size.
    """

    strategy_name = "unipic2_sharded"

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, process_group_backend=process_group_backend)

    def setup_environment(self) -> None:
        """Start the processes; the mesh covers all of them."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set the module up and make sure that every trained parameter is sharded."""
        super().setup(trainer)
        unsharded = [n for n, p in trainable_parameters(self.lightning_module).items() if not isinstance(p, DTensor)]
        if unsharded:  # Their gradients would never be synchronised, silently.
            msg = (
                f"this stage does not shard {len(unsharded)} of the parameters that it trains ({unsharded[0]}, ...): "
                "run it in one process (--config hardware/cpu or hardware/gpu)"
            )
            raise ValueError(msg)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return nothing: ``save_checkpoint`` collects the trainable parameters itself."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: ``save_checkpoint`` collects the optimiser's state itself."""
        return {}

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        filepath: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002
    ) -> None:
        """Write the folder ``filepath``, every rank its shard."""
        _save(self, checkpoint, Path(self.broadcast(filepath)))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load the folder ``checkpoint_path`` into module and optimisers; return the rest."""
        return _load(self, Path(self.broadcast(checkpoint_path)))

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a checkpoint folder (first rank only)."""
        if self.is_global_zero:
            training_checkpoint.remove(Path(filepath))


def _save(strategy: Strategy, checkpoint: dict[str, Any], path: Path) -> None:
    for key in ("state_dict", "optimizer_states"):
        checkpoint.pop(key, None)
    ema = checkpoint.pop(EMA_KEY, None)
    assert strategy.lightning_module is not None
    training_checkpoint.save(path, strategy.lightning_module, strategy.optimizers, ema, checkpoint)


def _load(strategy: Strategy, path: Path) -> dict[str, Any]:
    assert strategy.lightning_module is not None
    checkpoint, ema = training_checkpoint.load(path, strategy.lightning_module, strategy.optimizers)
    # Lightning asks for these keys although the strategy has restored what they stand for.
    return {**checkpoint, "state_dict": {}, "optimizer_states": [{} for _ in strategy.optimizers], EMA_KEY: ema}
