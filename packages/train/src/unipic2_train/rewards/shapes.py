"""Reward ``shapes``: detector A reads a picture of the shapes world back into a scene, and the scene is compared.

The held-out judge uses detector B, which shares no code with A: a model that learns to please A is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from unipic2_data.shapes.detect import BACKGROUND_TOLERANCE, to_geneval
from unipic2_data.shapes.detect_hard import HardMaskDetector
from unipic2_data.shapes.detect_soft import SoftAlphaDetector
from unipic2_data.shapes.scene import BACKGROUNDS, CELLS, Scene
from unipic2_evals.answers import JudgeId
from unipic2_train.rewards.base import Reward, RewardRequest
from unipic2_train.rewards.geneval import metadata_of, soft_score

if TYPE_CHECKING:
    from unipic2_data.shapes.detect import Detection

__all__ = ["ShapesReward", "edit_score", "prompt_score"]

DETECTORS = {"a": HardMaskDetector, "b": SoftAlphaDetector}
Facts = dict[tuple[int, str], str | bool]


class ShapesReward(Reward):
    """How well a picture shows what was asked for, in [0, 1]; see ``prompt_score`` and ``edit_score``.

    Args:
        detector: ``a`` for rewards, ``b`` for the held-out judge.
    """

    def __init__(self, detector: Literal["a", "b"] = "a") -> None:
        self.name, self.detector = detector, DETECTORS[detector]()

    def prepare(self) -> JudgeId:
        """Return which detector it is."""
        return super().prepare()._replace(id=f"detector {self.name} of the shapes world")

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        rule = edit_score if request.kind == "edit" else prompt_score
        found = self.detector.detect_batch(np.ascontiguousarray(request.pictures.numpy()))
        scores = [rule(detection, meta) for detection, meta in zip(found, request.meta, strict=True)]
        return torch.tensor(scores, dtype=torch.float64)


def prompt_score(detection: Detection, meta: Mapping[str, Any]) -> float:
    """Return GenEval's soft score, divided by 1 + what the prompt does not name.

    Objects beyond the number asked for, and foreground that is no object, count as one each.

    Args:
        detection: What is in the picture.
        meta: The row's JSON object, with GenEval's metadata.
    """
    metadata = metadata_of(meta)
    wanted = sum(clause["count"] for clause in metadata["include"])
    extra = max(0, len(detection.objects) - wanted) + detection.unexplained
    return soft_score(*to_geneval(detection), metadata) / (1 + extra)


def edit_score(detection: Detection, meta: Mapping[str, Any]) -> float:
    """Return compliance times preservation of an edit: doing nothing is worth nothing, and so is doing too much.

    A scene is a set of facts: of every cell whether it holds an object, which shape and which colour, and the
    background. Compliance is the share of right facts among those that the edit changes, preservation among the others;
    foreground that is no object is one wrong fact more.

    Args:
        detection: What is in the picture.
        meta: The row's JSON object, with source and target scene.
    """
    source, target = (Scene.from_json(meta["shapes"][name]) for name in ("scene", "target_scene"))
    before, after, found = _facts(source), _facts(target), _facts_seen(detection)
    changed = [fact for fact in after if after[fact] != before[fact] and _matters(fact, after)]
    kept = [fact for fact in after if fact not in changed and _matters(fact, after)]
    compliance = np.mean([found[fact] == after[fact] for fact in changed])
    right = sum(found[fact] == after[fact] for fact in kept)
    background = np.linalg.norm(np.subtract(detection.background, BACKGROUNDS[target.background]))
    right += bool(background <= BACKGROUND_TOLERANCE)
    preservation = right / (len(kept) + 1 + detection.unexplained)
    return float(compliance * preservation)


def _facts(scene: Scene) -> Facts:
    return _table([(item.cell, item.shape, item.color) for item in scene.items])


def _facts_seen(detection: Detection) -> Facts:
    return _table([(found.cell, found.shape, found.color) for found in detection.objects])


def _table(objects: list[tuple[int, str, str]]) -> Facts:
    """Return presence, shape and colour of every cell; a cell with two objects has none of a known kind."""
    facts: Facts = {(cell, name): "" for cell in range(len(CELLS)) for name in ("shape", "color")}
    facts |= {(cell, "present"): False for cell in range(len(CELLS))}
    for cell, shape, color in objects:
        crowded = facts[cell, "present"]
        facts[cell, "present"] = True
        facts[cell, "shape"], facts[cell, "color"] = ("several", "several") if crowded else (shape, color)
    return facts


def _matters(fact: tuple[int, str], target: Facts) -> bool:
    """An empty cell has no shape and colour to get right."""
    return fact[1] == "present" or bool(target[fact[0], "present"])
