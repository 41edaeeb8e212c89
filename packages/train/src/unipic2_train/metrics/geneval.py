"""GenEval's scores during training: a detector looks at generated images, GenEval's rules judge what it saw.

The rules are those of ``unipic2_evals``; nothing is implemented here but counting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from unipic2_evals import geneval
from unipic2_evals.geneval_suite import TAGS
from unipic2_evals.report import Interval, geneval_intervals
from unipic2_evals.runs.geneval import judge_detections

if TYPE_CHECKING:
    import numpy as np

    from unipic2_evals.protocols import Detector

__all__ = ["GenEvalScore"]


class GenEvalScore(Metric):
    """GenEval over all images of all ranks: accuracy by tag, and their unweighted mean.

    Args:
        detector: Names the objects and colours in images (``unipic2_evals.protocols.load_detector``, or any other).
        thresholds: Options of ``unipic2_evals.geneval.filter_detections``; None = GenEval's. The shapes detectors have
            confidences of their own: ``{"threshold": 0.5, "counting_threshold": 0.7}``.
        official: Keep the quirks of the official code.
    """

    full_state_update = False
    verdicts: list[Tensor]

    def __init__(
        self, detector: Detector, thresholds: Mapping[str, float] | None = None, official: bool = True
    ) -> None:
        super().__init__()
        self.detector, self.thresholds, self.official = detector, thresholds, official
        self.add_state("verdicts", [], dist_reduce_fx="cat")

    def update(self, images: Sequence[np.ndarray], metadata: Sequence[Mapping[str, Any]]) -> None:
        """Judge a batch.

        Args:
            images: RGB, uint8 (H, W, 3) each.
            metadata: The line of GenEval's suite that each was made for.
        """
        rows = []
        for (objects, colors), line in zip(self.detector(list(images)), metadata, strict=True):
            correct = judge_detections(objects, colors, line, self.thresholds, self.official)["correct"]
            rows.append([TAGS.index(line["tag"]), _identity(line["prompt"]), int(correct)])
        if rows:
            self.verdicts.append(torch.tensor(rows, dtype=torch.int64, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracy of each tag that was seen, ``images`` (of all) and ``overall`` (mean of the tags)."""
        records = self._records()
        if not records:
            return {}
        summary = geneval.summary(records)
        scores = {**summary["tasks"], "images": summary["correct_images"], "overall": summary["overall"]}
        return {name: torch.tensor(value) for name, value in scores.items()}

    def intervals(self) -> dict[str, Interval]:
        """Return the scores with 95% intervals by a bootstrap over prompts; in ``sync_context``, of all ranks."""
        return geneval_intervals(self._records())

    def _records(self) -> list[dict[str, Any]]:
        # A list before synchronisation, one tensor after it.
        parts = [self.verdicts] if isinstance(self.verdicts, Tensor) else self.verdicts
        rows = [row for part in parts for row in part.tolist()]
        return [{"tag": TAGS[tag], "metadata": prompt, "correct": bool(correct)} for tag, prompt, correct in rows]


def _identity(prompt: str) -> int:
    """Return a number that stands for a prompt on every rank."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "little", signed=True)
