"""Scores of a small VLM's answers to questions about scenes that training never shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_evals.report import markdown_table
from unipic2_train.metrics.answers import AnswerScore

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["AnswerEvaluation"]


class AnswerEvaluation(Callback):
    """Ask questions with their options in all four rotations; runs inside validation, on the averaged weights.

    Args:
        validation_samples: Questions per validation, all disciplines in turn; 0 for none.
        test_samples: Questions in the test, which follows ``fit``.
    """

    def __init__(self, validation_samples: int = 120, test_samples: int = 600) -> None:
        self.validation_samples, self.test_samples = validation_samples, test_samples

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score on scenes of the validation split."""
        if self.validation_samples:
            self._log(trainer, self._score(trainer, pl_module, "validation", self.validation_samples), "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score on scenes of the test split and write the table."""
        score = self._score(trainer, pl_module, "test", self.test_samples)
        metrics = self._log(trainer, score, "test")
        with score.sync_context():  # the counts of all ranks, as `compute` has taken them
            rows = score.rows()
        if trainer.is_global_zero:
            self._write(trainer, metrics, rows)

    @torch.no_grad()
    def _score(self, trainer: Trainer, pl_module: LightningModule, split: str, samples: int) -> AnswerScore:
        data: Any = trainer.datamodule
        score = AnswerScore().to(pl_module.device)
        for questions in data.questions(split, samples):
            right = pl_module.answers(questions)
            score.update(right, [question.discipline for question in questions.questions])
        return score

    def _log(self, trainer: Trainer, score: AnswerScore, split: str) -> dict[str, float]:
        metrics = {f"{split}/answers/{name}": float(value) for name, value in score.compute().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        line = ", ".join(f"{name.rpartition('/')[2]} {value:.3f}" for name, value in metrics.items())
        rank_zero_info(f"{split} answers at step {trainer.global_step}: {line}")
        return metrics

    def _write(self, trainer: Trainer, metrics: dict[str, float], rows: list[dict[str, Any]]) -> None:
        folder = Path(trainer.default_root_dir)
        table = markdown_table(
            ["discipline", "right in all rotations", "95% interval", "questions"],
            [(r["category"], f"{r['accuracy']:.3f}", f"{r['low']:.3f} - {r['high']:.3f}", r["total"]) for r in rows],
        )
        (folder / "scores.md").write_text(table + "\n")
        (folder / "scores.json").write_text(json.dumps({"metrics": metrics, "rows": rows}, indent=2))
        tracker: Any
        for tracker in trainer.loggers:
            tracker.text(table, "scores.md")
        print(f"\n{table}\n")  # noqa: T201 - the result that the person asked for
