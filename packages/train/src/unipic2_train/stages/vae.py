"""Stage ``vae``: a small AutoencoderKL for the shapes world, the stand-in for SD3.5's downloaded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from lightning.pytorch import LightningModule
from torch import Tensor

from unipic2_train import export, optim
from unipic2_train.objectives.autoencoder import AutoencoderConfig, AutoencoderObjective, autoencoder_loss
from unipic2_train.optim import OptimizerConfig

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["VaeStage"]


class VaeStage(LightningModule):
    """Train an autoencoder on target pictures.

    Args:
        vae: Its architecture.
        objective: Weights of the loss.
        optimizer: Optimiser and schedule.
        seed: Seed of initial weights and of the posterior's noise.
    """

    vae: AutoencoderKL

    def __init__(
        self, vae: AutoencoderConfig, objective: AutoencoderObjective, optimizer: OptimizerConfig, seed: int = 0
    ) -> None:
        super().__init__()
        self.vae_config, self.objective, self.optimizer, self.seed = vae, objective, optimizer, seed

    def configure_model(self) -> None:
        """Build the autoencoder from its seed."""
        if not hasattr(self, "vae"):
            self.vae = self.vae_config.build(self.seed).to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss of a batch of pictures."""
        return autoencoder_loss(self.vae, batch, self.objective, self.seed)._asdict()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log the loss with the posterior's mode."""
        loss = autoencoder_loss(self.vae, batch, self.objective, None).loss
        name = f"validation/loss_{batch.kind}"
        self.log(name, loss, batch_size=len(batch), sync_dist=True, logger=False)  # see TrainingMonitor

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the autoencoder with the scale and shift that give its latents zero mean and unit variance."""
        export.save_vae(folder, self.vae, self.trainer.datamodule.val_dataloader(), facts)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return optimiser and schedule."""
        return optim.configure(self, self.optimizer, self.trainer.max_steps)
