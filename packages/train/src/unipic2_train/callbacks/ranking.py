"""How well an edit reward orders edits of unseen sources as its judge does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_evals.report import markdown_table
from unipic2_train.metrics.edit_reward import RankingScore

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["RankingEvaluation"]


class RankingEvaluation(Callback):
    """Compare predictions with the judge on groups of held-out edits; runs on the averaged weights.

    Args:
        validation_samples: Groups per validation; 0 for none.
        test_samples: Groups in the test, which follows ``fit``.
    """

    def __init__(self, validation_samples: int = 64, test_samples: int = 512) -> None:
        self.validation_samples, self.test_samples = validation_samples, test_samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare on the validation split."""
        if self.validation_samples:
            self._log(trainer, self._score(trainer, pl_module, "validation", self.validation_samples), "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare on the test split and write the table."""
        score = self._score(trainer, pl_module, "test", self.test_samples)
        metrics = self._log(trainer, score, "test")
        with score.sync_context():  # what all ranks have, as `compute` has taken it
            row = score.row()
        if trainer.is_global_zero:
            self._write(trainer, metrics, row)

    @torch.no_grad()
    def _score(self, trainer: Trainer, pl_module: LightningModule, split: str, groups: int) -> RankingScore:
        data: Any = trainer.datamodule
        score = RankingScore(pl_module.edit_reward_config.objective.tie).to(pl_module.device)
        for batch in data.groups(split, groups):
            score.update(*pl_module.judged(batch))
        return score

    def _log(self, trainer: Trainer, score: RankingScore, split: str) -> dict[str, float]:
        metrics = {f"{split}/ranking/{name}": float(value) for name, value in score.compute().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        line = ", ".join(f"{name.rpartition('/')[2]} {value:.3f}" for name, value in metrics.items())
        rank_zero_info(f"{split} ranking at step {trainer.global_step}: {line or 'no edit has a score'}")
        return metrics

    def _write(self, trainer: Trainer, metrics: dict[str, float], row: dict[str, Any]) -> None:
        folder = Path(trainer.default_root_dir)
        interval = f"{row['low']:.3f} - {row['high']:.3f}" if row["pairs"] else "-"
        accuracy = f"{row['accuracy']:.3f}" if row["pairs"] else "-"
        rank = f"{metrics['test/ranking/spearman']:.3f}" if metrics else "-"
        table = markdown_table(
            [
                "untied pairs ordered right",
                "95% interval (groups drawn)",
                "pairs",
                "groups",
                "edits",
                "Spearman, all edits",
            ],
            [(accuracy, interval, row["pairs"], row["groups"], row["edits"], rank)],
        )
        (folder / "scores.md").write_text(table + "\n")
        (folder / "scores.json").write_text(json.dumps({"metrics": metrics, "rows": [row]}, indent=2))
        tracker: Any
        for tracker in trainer.loggers:
            tracker.text(table, "scores.md")
        print(f"\n{table}\n")  # noqa: T201 - the result that the person asked for
