"""Lightning strategies that write one kind of training checkpoint, whatever the number of processes.

``SingleDevice`` is the plain loop, ``Replicated`` plain data parallelism, and ``Sharded`` FSDP2 through Lightning's
``ModelParallelStrategy``; the last two run on CPU (gloo) or GPU (nccl). All store trainable state only, by parameter
name (see ``training_checkpoint``), so that a run goes on under another strategy and at another world size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch.distributed.tensor import DTensor

from unipic2_train import training_checkpoint
from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

__all__ = ["EMA_KEY", "Replicated", "Sharded", "SingleDevice"]

EMA_KEY = "ema"
"""Where the EMA callback puts its tensors in Lightning's checkpoint dictionary."""


class TrainingCheckpoints:
    """What the strategies share: one call saves or restores parameters, optimiser and EMA as one folder."""

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
        self: Any,
        checkpoint: dict[str, Any],
        filepath: str | Path,
        storage_options: Any | None = None,  # noqa: ARG002
    ) -> None:
        """Write the folder ``filepath``; all ranks call this."""
        for key in ("state_dict", "optimizer_states"):
            checkpoint.pop(key, None)
        ema = checkpoint.pop(EMA_KEY, None)
        path = Path(self.broadcast(filepath))
        training_checkpoint.save(path, self.lightning_module, self.optimizers, ema, checkpoint)

    def load_checkpoint(self: Any, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Load the folder ``checkpoint_path`` into module and optimisers; return the rest."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint, ema = training_checkpoint.load(path, self.lightning_module, self.optimizers)
        # Lightning asks for these keys although the strategy has restored what they stand for.
        return {**checkpoint, "state_dict": {}, "optimizer_states": [{} for _ in self.optimizers], EMA_KEY: ema}

    def remove_checkpoint(self: Any, filepath: str | Path) -> None:
        """Remove a checkpoint folder (first rank only)."""
        if self.is_global_zero:
            training_checkpoint.remove(Path(filepath))


class SingleDevice(TrainingCheckpoints, SingleDeviceStrategy):
    """One process on one device."""

    strategy_name = "unipic2_single"


class Replicated(TrainingCheckpoints, DDPStrategy):
    """Data parallelism with the whole model on every process: for models that are small beside their machine.

    On two CPU cores two processes of one thread each train the tiny preset faster than one process of two threads.
    """

    strategy_name = "unipic2_replicated"

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend, gradient_as_bucket_view=True)


class Sharded(TrainingCheckpoints, ModelParallelStrategy):
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
