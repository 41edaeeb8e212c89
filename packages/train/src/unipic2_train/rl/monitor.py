"""What a reinforcement run shows: every metric, a progress bar that counts iterations, grids from before to after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

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


class ReinforcementMonitor(Callback):
    """Log what each iteration returns, from the first on, at the number of iterations done.

    Args:
        every_n_iterations: Iterations between points; the first and the last are always logged.
    """

    def __init__(self, every_n_iterations: int = 1) -> None:
        self.every_n_iterations = every_n_iterations
        self._bar: tqdm | None = None
        self._alarmed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Open the progress bar."""
        if trainer.is_global_zero:
            done = trainer.global_step
            self._bar = tqdm(
                total=trainer.max_steps, initial=done, unit="iteration", desc="reinforcing", mininterval=1.0
            )

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
        if done == 1 or done % self.every_n_iterations == 0 or done == trainer.max_steps:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, done)
        if metrics.get(f"guard/alarm_{batch.kind}") and not self._alarmed:
            self._alarmed = True
            rank_zero_warn(
                f"iteration {done}: the training reward of {batch.kind} rises while the held-out judge falls: look at "
                "the grids in samples/ before you trust this run (model.guards.stop ends such runs)"
            )
        if self._bar is not None:
            reward = f"{metrics[f'rl/reward_{batch.kind}']:.3f}"
            self._bar.set_postfix({f"reward {batch.kind}": reward}, refresh=False)
            self._bar.update(1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log what the stage measured."""
        self._log_evaluation(trainer, "validation/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log what the stage measured."""
        self._log_evaluation(trainer, "test/")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Close the progress bar."""
        self.on_train_end(trainer, pl_module)

    def _log_evaluation(self, trainer: Trainer, prefix: str) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)
