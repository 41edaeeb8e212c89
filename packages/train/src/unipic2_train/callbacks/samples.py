"""Pictures and scores of the averaged model: grids at fixed prompts and noise, and shapes scores on unseen prompts.

Both run inside validation, where the EMA callback has put the averaged weights in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_evals.report import markdown_table
from unipic2_train.callbacks.grid import GridCell, save_grid
from unipic2_train.metrics.shapes import ShapesScore

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from unipic2_train.tracking import Tracker

__all__ = ["SampleGrid", "ShapesEvaluation"]


class SampleGrid(Callback):
    """Draw a grid of fixed prompts (prompt, picture) and edits (source, instruction, picture, target) each validation.

    Args:
        samples: Samples of each kind, from the start of the validation split.
    """

    def __init__(self, samples: int = 8) -> None:
        self.samples = samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log the grid."""
        self._draw(trainer, pl_module, "validation", f"step-{trainer.global_step:08d}.png")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the grid of the test split."""
        self._draw(trainer, pl_module, "test", "test.png")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, split: str, name: str) -> None:
        data: Any = trainer.datamodule
        cells: list[GridCell] = []
        for kind in data.kinds_in(split):
            # Every rank draws the same few pictures: under FSDP a forward needs all of them anyway.
            batch = data.fixed_batch(split, kind, self.samples)
            cells += GridCell.of_batch(batch, pl_module.generate(batch))
        if trainer.is_global_zero and cells:
            file = Path(trainer.default_root_dir) / "samples" / name
            save_grid(cells, file)
            for logger in trainer.loggers:
                logger.image(file, "samples")


class ShapesEvaluation(Callback):
    """Score generated shapes pictures: exact scenes by category with intervals, and edits that copy their source.

    A short pass on validation prompts during training, a long one on test prompts in ``test`` and after ``fit``.

    Args:
        validation_samples: Pictures of each kind per validation; 0 for none.
        test_samples: Pictures of each kind in the test.
    """

    def __init__(self, validation_samples: int = 64, test_samples: int = 1000) -> None:
        self.validation_samples, self.test_samples = validation_samples, test_samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Look once whether there is ground truth to score by: imported pictures have none."""
        data: Any = trainer.datamodule
        data.setup(stage)
        self.scores = data.has_ground_truth
        if not self.scores:
            rank_zero_info("the data has no ground truth (it is not of the shapes world): pictures are not scored")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score on validation prompts."""
        if self.validation_samples and self.scores:
            score = self._score(trainer, pl_module, "validation", self.validation_samples)
            self._log(trainer, score, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score on unseen test prompts and write the table."""
        if not self.scores:
            return
        score = self._score(trainer, pl_module, "test", self.test_samples)
        metrics = self._log(trainer, score, "test")
        with score.sync_context():  # the counts of all ranks, as `compute` has taken them
            rows = score.rows()
        if trainer.is_global_zero:
            self._write(trainer, metrics, rows)

    @torch.no_grad()
    def _score(self, trainer: Trainer, pl_module: LightningModule, split: str, samples: int) -> ShapesScore:
        data: Any = trainer.datamodule
        score = ShapesScore().to(pl_module.device)
        for kind in data.kinds_in(split):
            for batch in data.fixed_batches(split, kind, samples, batch_size=100):
                score.update(kind, pl_module.generate(batch), batch.meta)
        return score

    def _log(self, trainer: Trainer, score: ShapesScore, split: str) -> dict[str, float]:
        metrics = {f"{split}/{name}": float(value) for name, value in score.compute().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        shown = ("t2i/exact", "edit/exact", "edit/copy_rate")
        line = ", ".join(f"{n} {metrics[f'{split}/{n}']:.3f}" for n in shown if f"{split}/{n}" in metrics)
        rank_zero_info(f"{split} scores at step {trainer.global_step}: {line}")
        return metrics

    def _write(self, trainer: Trainer, metrics: dict[str, float], rows: list[dict[str, Any]]) -> None:
        folder = Path(trainer.default_root_dir)
        table = markdown_table(
            ["task", "category", "exact scenes", "95% interval", "samples"],
            [
                (r["kind"], r["category"], f"{r['accuracy']:.3f}", f"{r['low']:.3f} - {r['high']:.3f}", r["total"])
                for r in rows
            ],
        )
        (folder / "scores.md").write_text(table + "\n")
        (folder / "scores.json").write_text(json.dumps({"metrics": metrics, "rows": rows}, indent=2))
        tracker: Tracker
        for tracker in trainer.loggers:
            tracker.text(table, "scores.md")
        print(f"\n{table}\n")  # noqa: T201 - the result that the person asked for
