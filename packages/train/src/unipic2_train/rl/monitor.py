"""What a reinforcement run shows: every metric, a progress bar that counts iterations, grids from before to after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from unipic2_train.callbacks.progress import ProgressMonitor
from unipic2_train.callbacks.samples import SampleGrid

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["GridBeforeAndAfter", "ReinforcementMonitor"]


class GridBeforeAndAfter(SampleGrid):
    """Draw the grid of fixed prompts and noise before the first iteration too, to see what reinforcement changed.

    Args:
        samples: Samples of each kind, from the start of the validation split.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the run starts from, unless it was resumed."""
        if trainer.global_step == 0 and trainer.limit_val_batches:
            self._draw(trainer, pl_module, "validation", "step-00000000.png")


class ReinforcementMonitor(ProgressMonitor):
    """Log what each iteration returns, from the first on, at the number of iterations done.

    Args:
        every_n_iterations: Iterations between points; the first and the last are always logged.
    """

    def __init__(self, every_n_iterations: int = 1) -> None:
        super().__init__(every_n_iterations, "iteration", "reinforcing")
        self._alarmed = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log and move the bar on."""
        metrics, done = dict(outputs["metrics"]), trainer.global_step
        seconds = sum(metrics[f"speed/{phase}_seconds"] for phase in ("sample", "score", "optimise"))
        metrics["speed/images_per_second"] = trainer.datamodule.global_batch / seconds
        metrics["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if self.is_point(done, trainer):
            self.log_values(trainer, metrics)
        if metrics.get(f"guard/alarm_{batch.kind}") and not self._alarmed:
            self._alarmed = True
            rank_zero_warn(
                f"iteration {done}: the training reward of {batch.kind} rises while the held-out judge falls: look at "
                "the grids in samples/ before you trust this run (model.guards.stop ends such runs)"
            )
        self.show({f"reward {batch.kind}": f"{metrics[f'rl/reward_{batch.kind}']:.3f}"})
        self.advance(1)
