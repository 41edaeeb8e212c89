"""The end of a run: the averaged model as a folder that people can use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_train import home
from unipic2_train.callbacks.ema import ExponentialMovingAverage, averaged_weights
from unipic2_train.tracking import git_revision, package_versions, parent_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["ExportModel"]


class ExportModel(Callback):
    """Write the averaged model to ``export/`` in the run's folder when training ends.

    Args:
        publish_as: Also leave it at ``$UNIPIC2_HOME/<publish_as>``, where later stages look (``tiny/kontext``).
    """

    def __init__(self, publish_as: str | None = None) -> None:
        self.publish_as = publish_as

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export, unless training was interrupted."""
        if trainer.interrupted:
            return
        folder = Path(trainer.default_root_dir) / "export"
        with averaged_weights(trainer):
            pl_module.export(folder, self._facts(trainer))
        rank_zero_info(f"exported the model to {folder}")
        if self.publish_as and trainer.is_global_zero:
            target = home.folder() / self.publish_as
            home.publish(folder, target)
            rank_zero_info(f"the model is also at {target}")
        for logger in trainer.loggers:
            logger.tag("export", str(folder))

    def _facts(self, trainer: Trainer) -> dict[str, Any]:
        run = Path(trainer.default_root_dir)
        data: Any = trainer.datamodule
        stage = trainer.lightning_module
        return {
            "run": run.name,
            "optimiser_steps": trainer.global_step,
            "ema": any(isinstance(callback, ExponentialMovingAverage) for callback in trainer.callbacks),
            "data_manifest": data.manifest.digest,
            "started_from": parent_of(stage) or "scratch",
            "git_revision": git_revision(),
            "versions": json.dumps(package_versions()),
        }
