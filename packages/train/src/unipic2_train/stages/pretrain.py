"""Stage ``pretrain``: text-to-image and editing in one Kontext DiT, by alternating batches (UniPic 2.0, section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from torch import Tensor

from unipic2_train import optim
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.optim import OptimizerConfig

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["PretrainStage"]


class PretrainStage(LightningModule):
    """Train the transformer on text-to-image and edit batches in turn.

    Args:
        kontext: What it starts from, its objective and how it samples.
        optimizer: Optimiser and schedule.
    """

    kontext: Kontext

    def __init__(self, kontext: KontextConfig, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.kontext_config, self.optimizer = kontext, optimizer

    def configure_model(self) -> None:
        """Load what is frozen and build the transformer, sharded under FSDP."""
        if not hasattr(self, "kontext"):
            mesh = self.device_mesh["data_parallel"] if self.device_mesh else None
            self.kontext = Kontext(self.kontext_config, self.trainer.strategy.root_device, mesh)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss of one micro-batch, with each row's loss and noise level for the monitor."""
        return self.kontext.training_loss(batch)._asdict()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss at fixed noise and noise levels."""
        name = f"{'test' if self.trainer.testing else 'validation'}/loss_{batch.kind}"
        loss = self.kontext.validation_loss(batch)
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see TrainingMonitor

    test_step = validation_step

    def generate(self, batch: Batch) -> Tensor:
        """Return one picture per row, uint8 (B, H, W, 3)."""
        return self.kontext.generate(batch)

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the model as it is now; every rank calls this."""
        self.kontext.export(folder, facts, write=self.trainer.is_global_zero)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)
