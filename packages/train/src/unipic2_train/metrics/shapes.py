"""Scores of generated shapes images: GenEval's rules and exact scenes, judged by the evaluation detector.

The rules are those of ``unipic2_evals.geneval`` and ``unipic2_data.shapes``; nothing is implemented here but counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from unipic2_data.shapes.detect import Detector, nothing_else, same_scene, to_geneval
from unipic2_data.shapes.detect_soft import SoftAlphaDetector
from unipic2_data.shapes.edits import EDITS
from unipic2_data.shapes.prompts import TAGS
from unipic2_data.shapes.scene import Scene
from unipic2_evals import geneval
from unipic2_evals.report import wilson_interval

__all__ = ["CATEGORIES", "ShapesScore", "ShapesVerdict", "judge_shapes"]

CATEGORIES: dict[str, tuple[str, ...]] = {"t2i": TAGS, "edit": EDITS}


class ShapesVerdict(NamedTuple):
    """What the rules make of one picture."""

    exact: bool
    """It shows what was asked for and nothing else."""
    accepted: bool
    """GenEval's rules accept it; of edits the same as ``exact``."""
    copied: bool
    """It shows the scene of its source; of text-to-image never."""


def judge_shapes(
    detector: Detector, kind: str, images: np.ndarray, meta: Sequence[dict[str, Any]]
) -> list[ShapesVerdict]:
    """Judge generated pictures by the scenes of their samples.

    Args:
        detector: Whose eyes to use; detector B (soft alpha) for evaluation.
        kind: "t2i" or "edit".
        images: uint8 (B, H, W, 3).
        meta: The samples' JSON, with ``shapes`` ground truth.
    """
    verdicts = []
    for detection, sample in zip(detector.detect_batch(images), meta, strict=True):
        shapes = sample["shapes"]
        if kind == "edit":
            exact = same_scene(detection, Scene.from_json(shapes["target_scene"]))
            verdicts.append(ShapesVerdict(exact, exact, same_scene(detection, Scene.from_json(shapes["scene"]))))
        else:
            objects, colors = to_geneval(detection)
            accepted = geneval.evaluate(objects=objects, colors=colors, metadata=shapes["metadata"])["correct"]
            verdicts.append(ShapesVerdict(accepted and nothing_else(detection, shapes["metadata"]), accepted, False))
    return verdicts


class ShapesScore(Metric):
    """Exact-scene accuracy by category, and the share of edits that return their source.

    A text-to-image picture is exact if GenEval's rules accept it and it shows nothing beyond what the prompt names; an
    edit is exact if every object (shape, colour, cell) and the background are the target scene's. Judged by detector B
    (soft alpha), which no training reward uses. Counts are summed over ranks.
    """

    full_state_update = False
    t2i_exact: Tensor
    t2i_accepted: Tensor
    t2i_total: Tensor
    edit_exact: Tensor
    edit_accepted: Tensor
    edit_total: Tensor
    copies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.detector = SoftAlphaDetector()
        for kind, categories in CATEGORIES.items():
            for name in ("exact", "accepted", "total"):
                self.add_state(f"{kind}_{name}", torch.zeros(len(categories), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("copies", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, kind: str, images: Tensor, meta: Sequence[dict[str, Any]]) -> None:
        """Count a batch.

        Args:
            kind: "t2i" or "edit".
            images: Generated pictures, uint8 (B, H, W, 3).
            meta: The samples' JSON, with ``shapes`` ground truth.
        """
        for verdict, sample in zip(judge_shapes(self.detector, kind, np.asarray(images), meta), meta, strict=True):
            category = CATEGORIES[kind].index(sample["task"])
            for name, value in (("exact", verdict.exact), ("accepted", verdict.accepted), ("total", True)):
                getattr(self, f"{kind}_{name}")[category] += int(value)
            self.copies += int(verdict.copied)

    def compute(self) -> dict[str, Tensor]:
        """Return ``<kind>/exact``, ``t2i/geneval`` (mean over categories), each category, and ``edit/copy_rate``."""
        scores: dict[str, Tensor] = {}
        for kind, categories in CATEGORIES.items():
            exact, total = getattr(self, f"{kind}_exact"), getattr(self, f"{kind}_total")
            if int(total.sum()) == 0:
                continue
            scores[f"{kind}/exact"] = exact.sum() / total.sum()
            for index, category in enumerate(categories):
                if total[index]:
                    scores[f"{kind}/exact/{category}"] = exact[index] / total[index]
        if int(self.t2i_total.sum()):
            seen = self.t2i_total > 0
            scores["t2i/geneval"] = (self.t2i_accepted[seen] / self.t2i_total[seen]).mean()
        if int(self.edit_total.sum()):
            scores["edit/copy_rate"] = self.copies / self.edit_total.sum()
        return scores

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per category and one per kind: correct, total, accuracy and its 95% Wilson interval."""
        rows = []
        for kind, categories in CATEGORIES.items():
            exact, total = getattr(self, f"{kind}_exact").tolist(), getattr(self, f"{kind}_total").tolist()
            counts = [(name, *pair) for name, *pair in zip(categories, exact, total, strict=True)]
            for name, correct, count in [*counts, ("all", sum(exact), sum(total))]:
                if count:
                    interval = wilson_interval(correct, count)
                    row = {"kind": kind, "category": name, "correct": correct, "total": count}
                    rows.append(row | {"accuracy": interval.mean, "low": interval.low, "high": interval.high})
        return rows
