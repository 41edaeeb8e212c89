"""When training checkpoints are written and how an interrupted run says how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["TrainingCheckpoint"]


class TrainingCheckpoint(ModelCheckpoint):
    """Write ``checkpoints/step-N`` in the run's folder every so many optimiser steps, and at the end.

    Args:
        every_n_steps: Optimiser steps between checkpoints.
        keep: Newest checkpoints to keep; -1 keeps all.
    """

    FILE_EXTENSION = ""

    def __init__(self, every_n_steps: int = 1000, keep: int = 1) -> None:
        super().__init__(
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_steps,
            save_on_train_epoch_end=False,
            # A run that is resumed from an older checkpoint replaces the newer ones as it reaches their steps.
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write below the run's folder."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the last step too, so that a finished run can be exported again or go on for longer."""
        if self.save_top_k != 0 and not trainer.interrupted and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Say what is left and how to go on."""
        if self.best_model_path:
            where = f"the last checkpoint is {self.best_model_path}; go on with --resume {trainer.default_root_dir}"
        else:
            where = "no checkpoint had been written yet"
        rank_zero_info(f"training stopped at optimiser step {trainer.global_step}: {where}")
