"""What the monitors of all stages share: a progress bar with ETA, and values logged at the optimiser step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer

__all__ = ["ProgressMonitor"]


class ProgressMonitor(Callback):
    """Show how far a run is, and log what it measures.

    Args:
        every: Steps between points; the first and the last are always points.
        unit: What a step is called.
        doing: What the run does, in front of the bar.
    """

    def __init__(self, every: int, unit: str, doing: str) -> None:
        self._every, self._unit, self._doing = every, unit, doing
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Open the progress bar."""
        if trainer.is_global_zero:
            self._bar = tqdm(
                total=trainer.max_steps if trainer.max_steps > 0 else None,
                initial=trainer.global_step,
                unit=self._unit,
                desc=self._doing,
                smoothing=0.05,
                mininterval=1.0,
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log what the stage measured, at its optimiser step (Lightning itself would count batches, from 0)."""
        self._log_measured(trainer, "validation/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log what the stage measured."""
        self._log_measured(trainer, "test/")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Close the progress bar."""
        self.on_train_end(trainer, pl_module)

    def is_point(self, step: int, trainer: Trainer) -> bool:
        """Tell whether values are logged at this step."""
        return step == 1 or step % self._every == 0 or step == trainer.max_steps

    def log_values(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values at the optimiser steps done (`log` is taken: Lightning gives callbacks that of the module)."""
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)

    def show(self, values: Mapping[str, str]) -> None:
        """Write values behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)

    def advance(self, steps: int) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.update(steps)

    def _log_measured(self, trainer: Trainer, prefix: str) -> None:
        measured = trainer.callback_metrics.items()
        self.log_values(trainer, {name: float(value) for name, value in measured if name.startswith(prefix)})
