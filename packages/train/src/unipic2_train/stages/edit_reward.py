"""Stage ``edit-reward``: a vision-language model learns what a judge would say of an edit (UniPic 2.0, section 3).

The report's Skywork-EditReward: edits of the pre-trained model, scored by a judge, teach Qwen2.5-VL a regression head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from torch import Tensor

from unipic2_train import optim
from unipic2_train.edit_reward.system import EditRewardConfig, EditRewardSystem
from unipic2_train.optim import OptimizerConfig

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["EditRewardStage"]


class EditRewardStage(LightningModule):
    """Train an edit reward on groups of scored edits.

    Args:
        edit_reward: What it starts from, what learns, and its objective.
        optimizer: Optimiser and schedule.
    """

    edit_reward: EditRewardSystem

    def __init__(self, edit_reward: EditRewardConfig, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.edit_reward_config, self.optimizer = edit_reward, optimizer

    def configure_model(self) -> None:
        """Load the VLM and put the head on it, sharded under FSDP."""
        if not hasattr(self, "edit_reward"):
            mesh = self.device_mesh["data_parallel"] if self.device_mesh else None
            facts = self.trainer.datamodule.facts
            device = self.trainer.strategy.root_device
            self.edit_reward = EditRewardSystem(self.edit_reward_config, facts, device, mesh)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss of one micro-batch of whole groups, and what each edit adds, for the monitor."""
        return self.edit_reward.training_loss(batch)._asdict()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss of edits of unseen sources."""
        name = f"{'test' if self.trainer.testing else 'validation'}/loss_{batch.kind}"
        loss = self.edit_reward.training_loss(batch).loss
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see TrainingMonitor

    test_step = validation_step

    def judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what is predicted of edits and what the judge said, standardised, (groups, edits of each)."""
        return self.edit_reward.judged(batch)

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the reward as it is now; every rank calls this."""
        self.edit_reward.export(folder, facts, write=self.trainer.is_global_zero)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)
