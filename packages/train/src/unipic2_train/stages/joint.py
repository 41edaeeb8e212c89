"""Stage ``joint``: queries, connector and Kontext DiT learn together from text-to-image and edit batches in turn.

UniPic 2.0 report, section 3: the second half of UniPic2-MetaQuery, after ``connector``. Either of the two may stay
frozen (the report's table 3), and the picture that is edited may go to the VLM, the DiT or both (its table 2).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from torch import Tensor

from unipic2_train import optim
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig, Trained
from unipic2_train.optim import OptimizerConfig
from unipic2_unified.variants import Reference

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["JointStage"]


class JointStage(LightningModule):
    """Train queries, connector and DiT; the VLM is frozen.

    Args:
        metaquery: What it starts from, its objective and how it samples.
        optimizer: Optimiser and schedule.
        train: ``connector`` (with its queries), ``transformer`` (the DiT) or ``both``; the other stays frozen.
        reference: Who sees the picture that is edited: ``vlm``, ``dit`` or ``both``.
    """

    metaquery: MetaQuery

    def __init__(
        self,
        metaquery: MetaQueryConfig,
        optimizer: OptimizerConfig,
        train: Trained = "both",
        reference: Reference = "both",
    ) -> None:
        super().__init__()
        self.metaquery_config, self.optimizer = metaquery, optimizer
        self.trained, self.reference = train, reference

    def configure_model(self) -> None:
        """Load what is frozen and build the rest, sharded under FSDP."""
        if not hasattr(self, "metaquery"):
            mesh = self.device_mesh["data_parallel"] if self.device_mesh else None
            device = self.trainer.strategy.root_device
            self.metaquery = MetaQuery(self.metaquery_config, self.trained, self.reference, device, mesh)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss of one micro-batch, with each row's loss and noise level for the monitor."""
        return self.metaquery.training_loss(batch)._asdict()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss at fixed noise and noise levels."""
        name = f"{'test' if self.trainer.testing else 'validation'}/loss_{batch.kind}"
        loss = self.metaquery.validation_loss(batch)
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see TrainingMonitor

    test_step = validation_step

    def generate(self, batch: Batch) -> Tensor:
        """Return one picture per row, uint8 (B, H, W, 3)."""
        return self.metaquery.generate(batch)

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the model as it is now; every rank calls this."""
        self.metaquery.export(folder, facts, write=self.trainer.is_global_zero)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)
