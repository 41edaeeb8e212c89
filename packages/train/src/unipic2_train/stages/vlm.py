"""Stage ``vlm``: a small Qwen2.5-VL for the shapes world, the stand-in for the downloaded 3B or 7B."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from torch import Tensor

from unipic2_train import optim
from unipic2_train.optim import OptimizerConfig
from unipic2_train.vlm.system import SmallVlm
from unipic2_vlm.small import SmallVlmConfig

if TYPE_CHECKING:
    from unipic2_data.batch import Batch
    from unipic2_train.vlm.data import Questions

__all__ = ["VlmStage"]


class VlmStage(LightningModule):
    """Train a small VLM on captions, instructions and questions.

    Args:
        vlm: Its sizes, and the seed of its weights.
        optimizer: Optimiser and schedule.
    """

    vlm: SmallVlm

    def __init__(self, vlm: SmallVlmConfig, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.vlm_config, self.optimizer = vlm, optimizer

    def configure_model(self) -> None:
        """Build the model, or that of the run that goes on."""
        if not hasattr(self, "vlm"):
            start = Path(self.trainer.default_root_dir) / "start"
            strategy = self.trainer.strategy
            self.vlm = SmallVlm.begin(
                start,
                self.vlm_config,
                strategy.root_device,
                write=self.trainer.is_global_zero,
                barrier=strategy.barrier,
            )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss of a batch of lessons."""
        return self.vlm.training_loss(batch)._asdict()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss of lessons about unseen scenes."""
        name = f"{'test' if self.trainer.testing else 'validation'}/loss_{batch.kind}"
        loss = self.vlm.training_loss(batch).loss
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see TrainingMonitor

    test_step = validation_step

    def answers(self, questions: Questions) -> Tensor:
        """Tell whether questions are answered right in each rotation of their options, bool (questions, 4)."""
        return self.vlm.answers(questions)

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the model as a Hugging Face folder; every rank calls this."""
        self.vlm.export(folder, facts, write=self.trainer.is_global_zero)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)
