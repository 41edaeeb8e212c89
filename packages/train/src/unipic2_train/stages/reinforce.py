"""Stages ``edit-rl`` and ``t2i-rl``: online reinforcement, PDTR's two halves (UniPic 2.0, sections 3.2 and 4.1).

Which task is trained is the data's business (``data.tasks``), so the two stages are one class with two recipes.
Lightning counts optimiser steps; here an iteration (sample, score, optimise) counts as one, whatever steps it takes, so
that checkpoints, EMA, schedules, logs and ``trainer.max_steps`` count iterations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from unipic2_train import optim
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.optim import OptimizerConfig
from unipic2_train.rewards.base import WeightedReward
from unipic2_train.rl.config import RLConfig
from unipic2_train.rl.guards import GuardsConfig
from unipic2_train.rl.iteration import Reinforcement
from unipic2_train.rl.merge import merged_values

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["ReinforceStage"]


class ReinforceStage(LightningModule):
    """Train a model on what its own images score.

    Args:
        kontext: What it starts from, and how it samples for evaluation. With an adapter, what it starts from is the
            reference policy, and the export is the model with the adapter merged.
        optimizer: Optimiser and schedule.
        rl: The algorithm.
        rewards: Rewards by name.
        guards: What is watched beside them.
    """

    kontext: Kontext

    def __init__(
        self,
        kontext: KontextConfig,
        optimizer: OptimizerConfig,
        rl: RLConfig,
        rewards: dict[str, WeightedReward],
        guards: GuardsConfig,
    ) -> None:
        super().__init__()
        rl.check(adapter=kontext.adapter is not None)
        self.automatic_optimization = False
        self.kontext_config, self.optimizer, self.rl = kontext, optimizer, rl
        self.rewards, self.guards = rewards, guards

    def configure_model(self) -> None:
        """Load what is frozen and build the transformer, sharded under FSDP."""
        if not hasattr(self, "kontext"):
            mesh = self.device_mesh["data_parallel"] if self.device_mesh else None
            self.kontext = Kontext(self.kontext_config, self.trainer.strategy.root_device, mesh)
            self.reinforcement = Reinforcement(self.kontext, self.rl, self.rewards, self.guards)

    def on_fit_start(self) -> None:
        """Check the batch arithmetic and say it in words."""
        if self.trainer.precision == "16-mixed":
            msg = "16-mixed scales losses, which this stage does not: use 32-true or bf16-mixed"
            raise ValueError(msg)
        layout = self.trainer.datamodule.layout
        layout.check(self.rl)
        rank_zero_info(layout.words(self.rl))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Run one iteration and return what to log."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        metrics = self.reinforcement.step(batch, self.trainer.datamodule.layout, optimizer, self.trainer.global_step)
        self.lr_schedulers().step()
        self._count_iteration()
        if self.guards.stop and metrics.get(f"guard/alarm_{batch.kind}"):
            self.trainer.should_stop = True
        return {"metrics": metrics}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the flow-matching loss at fixed noise and noise levels: how far the model leaves the data behind."""
        name = f"{'test' if self.trainer.testing else 'validation'}/loss_{batch.kind}"
        loss = self.kontext.validation_loss(batch)
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see ReinforcementMonitor

    test_step = validation_step

    def generate(self, batch: Batch) -> Tensor:
        """Return one picture per row, uint8 (B, H, W, 3)."""
        return self.kontext.generate(batch)

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the whole model as it is now, adapter merged; every rank calls this."""
        if self.kontext_config.adapter is None:
            self.kontext.export(folder, facts, write=self.trainer.is_global_zero)
            return
        values = merged_values(self.kontext.transformer, self.kontext_config.adapter.alpha)
        if self.trainer.is_global_zero:
            self.kontext.save(folder, values, facts)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule, which counts iterations."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the next iterations depend on beside weights and optimiser."""
        checkpoint["reinforcement"] = self.reinforcement.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self.reinforcement.load_state_dict(checkpoint["reinforcement"])

    def _count_iteration(self) -> None:
        """Tell Lightning that one step is done; it saw none, since the optimiser is used without its wrapper."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
