"""Reward ``geneval``: GenEval's rules over any detector, with partial credit or as the official score has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipic2_evals import geneval
from unipic2_evals.answers import JudgeId
from unipic2_evals.local import LocalOptions, local_detector
from unipic2_evals.protocols import Detector, detectors, load_detector
from unipic2_train.rewards.base import Reward, RewardRequest

__all__ = ["GenEvalReward", "metadata_of", "soft_score"]


class GenEvalReward(Reward):
    """GenEval's score of each picture, in [0, 1]. Train on the soft score and report the official one.

    Args:
        detector: Name of an installed detector (entry-point group ``unipic2.detectors``), or the checkpoints of the
            official pair, Mask2Former and CLIP (`unipic2_evals.local`); their device ``cuda`` is this process's GPU.
        official: The official rule, 0 or 1, instead of the soft score.
    """

    kinds = ("t2i",)

    def __init__(self, detector: str | LocalOptions, official: bool = False) -> None:
        self.source, self.official = detector, official
        if isinstance(detector, str):
            self.prepare()  # it is installed, or the name is wrong

    @property
    def detector(self) -> Detector:
        """What looks at the pictures."""
        return self._found[0]

    def prepare(self) -> JudgeId:
        """Load the detector and return which it is."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Detector, JudgeId]:
        if not isinstance(self.source, str):
            return local_detector(self.source)
        detector, distribution = load_detector(self.source), detectors()[self.source].dist
        assert distribution is not None
        return detector, JudgeId(self.source, f"{distribution.name} {distribution.version}")

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        found = self.detector([picture.numpy() for picture in request.pictures])
        scores = []
        for (objects, colors), meta in zip(found, request.meta, strict=True):
            metadata = metadata_of(meta)
            kept, seen = _counted(objects, colors, metadata["tag"])
            if self.official:
                scores.append(float(geneval.evaluate(kept, seen, metadata)["correct"]))
            else:
                scores.append(soft_score(kept, seen, metadata))
        return torch.tensor(scores, dtype=torch.float64)


def metadata_of(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return GenEval's metadata of a sample.

    Raises:
        ValueError: The sample has none.
    """
    found = meta.get("metadata") or meta.get("shapes", {}).get("metadata")
    if not found or "include" not in found:
        msg = (
            "a row has no GenEval metadata (`include` clauses), so its pictures can't be scored by rules: take prompts "
            "from data.prompts, or import them with their metadata"
        )
        raise ValueError(msg)
    return found


def soft_score(
    objects: Mapping[str, Sequence[Sequence[float]]], colors: Mapping[str, Sequence[str]], metadata: Mapping[str, Any]
) -> float:
    """Return Flow-GRPO's partial credit for one picture, in [0, 1]: the mean over all that is asked for.

    Every ``include`` clause asks for a number of objects n of a class, of which c are found::

        count      max(0, 1 - |c - n| / n)                      exact: too many are as wrong as too few
        colour     max(0, 1 - |k - n| / n), k of the colour     0 if the count is wrong
        position   1 if every pair has the relation             0 if the count, the colour or the other object is wrong

    Args:
        objects: Kept detections of each class, by falling score.
        colors: Their colours.
        metadata: The prompt's clauses.
    """
    credits: list[float] = []
    groups: list[Sequence[Sequence[float]] | None] = []
    for clause in metadata["include"]:
        boxes, count = objects.get(clause["class"], []), clause["count"]
        right = len(boxes) == count
        credits.append(max(0.0, 1 - abs(len(boxes) - count) / count))
        if "color" in clause:
            of_color = list(colors.get(clause["class"], [])).count(clause["color"])
            credits.append(max(0.0, 1 - abs(of_color - count) / count) if right else 0.0)
            right = right and of_color == count
        if "position" in clause:
            relation, other = clause["position"]
            right = right and _all_related(boxes, groups[other], relation)
            credits.append(float(right))
        groups.append(boxes if right else None)
    return float(np.mean(credits))


def _all_related(boxes: Sequence[Sequence[float]], others: Sequence[Sequence[float]] | None, relation: str) -> bool:
    return others is not None and all(relation in geneval.relative_position(a, b) for a in boxes for b in others)


def _counted(
    objects: Mapping[str, Any], colors: Mapping[str, Sequence[str]], tag: str
) -> tuple[dict[str, list[list[float]]], dict[str, list[str]]]:
    """Return the detections that GenEval's thresholds keep, and their colours."""
    kept = geneval.filter_detections(objects, tag)
    named = {
        name: {tuple(map(float, box)): color for box, color in zip(boxes, colors.get(name, []), strict=False)}
        for name, boxes in objects.items()
    }
    seen = {
        name: [named[name][tuple(box)] for box in boxes if tuple(box) in named[name]] for name, boxes in kept.items()
    }
    return kept, seen
