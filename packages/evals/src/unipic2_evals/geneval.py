"""GenEval's scoring rules (djghosh13/geneval, arXiv 2310.11513), without its detector.

The official scorer runs Mask2Former and CLIP and then decides by rules; only the rules are here. Whoever has detections
can score: a replayed file, a real detector, or the exact detectors of the shapes world.

Legend:
    box: ``[x1, y1, x2, y2]`` in pixels, y pointing down.
    detection: ``[x1, y1, x2, y2, score]``, score in [0, 1].
    metadata: one prompt line, ``{"tag", "include": [{"class", "count", "color"?, "position"?: [relation, clause]}],
    "exclude"?: [{"class", "count"}], "prompt"}``.

Quirks of the official code, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `evaluate` takes the most confident boxes before it looks at colours.
    - `relative_position` keeps twice the margin between boxes side by side that its threshold says.
    - `make_plural`, and with it the prompt suite, knows one rule ("benchs", "persons").

One thing never follows the official code: its ``reason`` joins a set of relations in undefined order, here they are
sorted.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from unipic2_evals.checks import as_field, as_mapping, as_number, as_text
from unipic2_evals.geneval_suite import COLORS, RELATIONS, TAGS, generate_suite, make_plural, prompt_suite, with_article

__all__ = [
    "COLORS",
    "RELATIONS",
    "TAGS",
    "OutputPath",
    "Summary",
    "Verdict",
    "colors_of",
    "compute_iou",
    "evaluate",
    "filter_detections",
    "generate_suite",
    "make_plural",
    "output_path",
    "prompt_suite",
    "relative_position",
    "summary",
    "with_article",
]

Detection = Sequence[float]
Objects = Mapping[str, Sequence[Detection]]


class Verdict(TypedDict):
    """What the rules make of one image."""

    correct: bool
    reason: str
    """One line for each rule that failed; empty if the image is correct."""


class Summary(TypedDict):
    """Scores of a whole run."""

    total_images: int
    total_prompts: int
    correct_images: float
    """Fraction of images that are correct."""
    correct_prompts: float
    """Fraction of prompts with at least one correct image."""
    tasks: dict[str, float]
    """Fraction of correct images by tag, in order of first appearance."""
    overall: float
    """GenEval's score: the unweighted mean of ``tasks``."""


class OutputPath(TypedDict):
    """Where the official scorer looks for one sample, below the output folder."""

    image: str
    metadata: str


def evaluate(
    objects: Objects,
    colors: Mapping[str, Sequence[str]],
    metadata: Mapping[str, Any],
    position_threshold: float = 0.1,
    official: bool = True,
) -> Verdict:
    """Decide whether an image shows what its prompt asks for.

    Every ``include`` clause takes the ``count`` most confident boxes of its class; fewer boxes fail it. Their colour is
    checked next, and then their position: each of them against each box of an earlier clause. Extra objects are
    fine, except where ``exclude`` says otherwise (``count`` boxes of a class, or more, fail).

    Args:
        objects: Kept detections of each class, by falling score (what `filter_detections` returns).
        colors: Colour of each of those boxes, in the same order; read only for classes that a clause gives a colour.
        metadata: The prompt's line of the suite.
        position_threshold: Margin of `relative_position`.
        official: True takes the ``count`` most confident boxes before looking at colours, so a more confident box of
            another colour fails the clause. False takes the most confident boxes of the right colour. Passed on
            to `relative_position` too.

    Returns:
        The verdict; its reasons are in the order of the clauses.

    Raises:
        ValueError: If a class with a colour clause has boxes without a colour, a clause refers to a later one, or
            something is malformed.
    """
    as_mapping(objects, "objects")
    as_mapping(colors, "colors")
    as_mapping(metadata, "metadata")
    rules = _Rules(objects, colors, position_threshold, official)
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in metadata.get("include", []):
        group, reason = rules.match(clause, groups)
        groups.append(group)
        if reason:
            reasons.append(reason)
    for clause in metadata.get("exclude", []):
        name, count = _class_and_count(clause, "exclude")
        found = len(objects.get(name, []))
        if found >= count:
            reasons.append(f"expected {name}<{count}, found {found}")
    return {"correct": not reasons, "reason": "\n".join(reasons)}


class _Rules(NamedTuple):
    """The three checks of an ``include`` clause; each returns the boxes that passed, or None, and a reason if not."""

    objects: Objects
    colors: Mapping[str, Sequence[str]]
    position_threshold: float
    official: bool

    def match(
        self, clause: Mapping[str, Any], groups: Sequence[Sequence[Detection] | None]
    ) -> tuple[Sequence[Detection] | None, str]:
        name, count = _class_and_count(clause, "include")
        boxes = self.objects.get(name, [])
        if len(boxes) < count:
            return None, f"expected {name}>={count}, found {len(boxes)}"
        reason = ""
        if "color" in clause:
            boxes, reason = self._colored(name, count, clause["color"])
        group = boxes[:count]
        if not reason and "position" in clause:
            relation, target = clause["position"]
            reason = self._misplaced(name, group, relation, target, groups)
        return (None, reason) if reason else (group, "")

    def _colored(self, name: str, count: int, color: str) -> tuple[Sequence[Detection], str]:
        boxes, colors = self.objects[name], self.colors.get(name, [])
        looked_at = count if self.official else len(boxes)
        if len(colors) < looked_at:
            message = f"colors of {name!r}: expected one for each of {looked_at} boxes, got {len(colors)}"
            raise ValueError(message)
        seen = list(colors[:looked_at])
        if seen.count(color) >= count:
            return [box for box, found in zip(boxes, seen, strict=False) if found == color], ""
        palette = [*COLORS, *sorted(set(seen) - set(COLORS))]
        listed = ", ".join(f"{seen.count(c)} {c}" for c in palette if c in seen)
        return [], f"expected {color} {name}>={count}, found {seen.count(color)} {color}; and {listed}"

    def _misplaced(
        self,
        name: str,
        group: Sequence[Detection],
        relation: str,
        target: int,
        groups: Sequence[Sequence[Detection] | None],
    ) -> str:
        if not 0 <= target < len(groups):
            message = f"position of {name!r}: clause {target} is not an earlier one (there are {len(groups)})"
            raise ValueError(message)
        targets = groups[target]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for box in group:
            for other in targets:
                found = relative_position(box, other, self.position_threshold, self.official)
                if relation not in found:
                    return f"expected {name} {relation} target, found {' and '.join(found)} target"
        return ""


def relative_position(
    obj_a: Detection, obj_b: Detection, position_threshold: float = 0.1, official: bool = True
) -> list[str]:
    """Return the relations of A to B: none, one, or two on a diagonal.

    With centres ``c`` and sizes ``d``, the offset ``o = c_A - c_B`` is shrunk along each axis by
    ``m = position_threshold * (d_A + d_B)`` to ``s = sign(o) * max(|o| - m, 0)``. A relation holds along an axis if
    ``|s| / ||o|| > 1/2``.

    Args:
        obj_a: Box or detection.
        obj_b: Box or detection.
        position_threshold: Margin, as a fraction of the summed sizes.
        official: True divides by the length of the offset before shrinking, which doubles the margin of boxes side by
            side (``|o| > 2 m``). False divides by the length after shrinking, so that the margin is what it says.

    Returns:
        A sorted subset of `RELATIONS`.

    Raises:
        ValueError: If a box is not four numbers or more.
    """
    box_a, box_b = np.asarray(_box(obj_a, "obj_a")), np.asarray(_box(obj_b, "obj_b"))
    offset = (box_a[:2] + box_a[2:]) / 2 - (box_b[:2] + box_b[2:]) / 2  # (x, y)
    margin = position_threshold * (np.abs(box_a[2:] - box_a[:2]) + np.abs(box_b[2:] - box_b[:2]))
    shrunk = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0)
    if np.all(np.abs(shrunk) < 1e-3):
        return []
    dx, dy = shrunk / np.linalg.norm(offset if official else shrunk)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return sorted(relation for relation, true in holds.items() if true)


def compute_iou(box_a: Detection, box_b: Detection) -> float:
    """Return the intersection over union of two boxes with inclusive corners (a box [0, 0, 9, 9] has 100 pixels).

    Args:
        box_a: Box or detection.
        box_b: Box or detection.

    Returns:
        A value in [0, 1]; 0 for two empty boxes.

    Raises:
        ValueError: If a box is not four numbers or more.
    """
    box_a, box_b = _box(box_a, "box_a"), _box(box_b, "box_b")

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    intersection = area(
        max(box_a[0], box_b[0]), max(box_a[1], box_b[1]), min(box_a[2], box_b[2]), min(box_a[3], box_b[3])
    )
    union = area(*box_a) + area(*box_b) - intersection
    return float(intersection / union) if union else 0.0


def filter_detections(
    raw: Objects, tag: str, options: Mapping[str, float] | None = None
) -> dict[str, list[list[float]]]:
    """Choose the detections that count.

    Of each class, keep those that score more than the threshold, then the ``max_objects`` best, then drop whatever
    overlaps a better one by ``max_overlap`` or more (1.0 = never).

    Args:
        raw: All detections of each class, in any order.
        tag: The prompt's tag; "counting" has a threshold of its own.
        options: ``threshold`` (default 0.3), ``counting_threshold`` (0.9), ``max_objects`` (16) and ``max_overlap``
            (1.0).

    Returns:
        Kept detections of each class by falling score; classes with none are absent.

    Raises:
        ValueError: If an option has another name, or a detection is not five numbers.
    """
    chosen = {"threshold": 0.3, "counting_threshold": 0.9, "max_objects": 16, "max_overlap": 1.0}
    unknown = sorted(set(options or {}) - set(chosen))
    if unknown:
        message = f"unknown options {unknown}; expected some of {sorted(chosen)}"
        raise ValueError(message)
    chosen.update(options or {})
    threshold = chosen["counting_threshold"] if tag == "counting" else chosen["threshold"]
    kept: dict[str, list[list[float]]] = {}
    for name, detections in raw.items():
        boxes = _detections(detections, name)
        order = np.argsort(boxes[:, 4])[::-1]  # the official order, ties included
        candidates = boxes[order][boxes[order, 4] > threshold][: int(chosen["max_objects"])].tolist()
        best: list[list[float]] = []
        for box in candidates:
            if chosen["max_overlap"] == 1 or all(compute_iou(box, other) < chosen["max_overlap"] for other in best):
                best.append(box)
        if best:
            kept[name] = best
    return kept


def colors_of(kept: Sequence[Detection], raw: Sequence[Detection], colors: Sequence[str]) -> list[str]:
    """Return the colours of the boxes that `filter_detections` kept; boxes that are alike share theirs.

    Args:
        kept: Kept detections of one class.
        raw: All detections of the class.
        colors: Colour of each of all.
    """
    by_box = {tuple(float(number) for number in box): color for box, color in zip(raw, colors, strict=False)}
    found = (by_box.get(tuple(box)) for box in kept)
    return [color for color in found if color is not None]


def summary(records: Sequence[Mapping[str, Any]]) -> Summary:
    """Return the scores of a run.

    Args:
        records: One mapping an image: ``tag``, ``metadata`` (anything hashable that identifies the prompt) and
            ``correct``.

    Returns:
        Fractions over images, prompts and tags.

    Raises:
        ValueError: If there are no records, or one lacks a field.
    """
    if not records:
        message = "no image records: expected at least one"
        raise ValueError(message)
    by_tag: dict[str, list[bool]] = {}
    by_prompt: dict[Any, list[bool]] = {}
    for index, record in enumerate(records):
        tag, prompt, correct = (as_field(record, key, f"record {index}") for key in ("tag", "metadata", "correct"))
        if not isinstance(prompt, Hashable):
            message = (
                f"metadata of record {index}: expected what identifies the prompt, such as its text, got {prompt!r}"
            )
            raise ValueError(message)
        by_tag.setdefault(tag, []).append(bool(correct))
        by_prompt.setdefault(prompt, []).append(bool(correct))
    tasks = {tag: sum(verdicts) / len(verdicts) for tag, verdicts in by_tag.items()}
    return {
        "total_images": len(records),
        "total_prompts": len(by_prompt),
        "correct_images": sum(bool(record["correct"]) for record in records) / len(records),
        "correct_prompts": sum(any(verdicts) for verdicts in by_prompt.values()) / len(by_prompt),
        "tasks": tasks,
        "overall": float(np.mean(list(tasks.values()))),
    }


def output_path(prompt_index: int, sample: int) -> OutputPath:
    """Return where the official scorer looks for a sample, below the output folder.

    Args:
        prompt_index: Line of the suite, counted from 0.
        sample: Number of the image of that prompt, counted from 0.

    Returns:
        Relative paths of the image, and of the file that holds the prompt's metadata as one JSON object.
    """
    folder = f"{prompt_index:05}"
    return {"image": f"{folder}/samples/{sample:05}.png", "metadata": f"{folder}/metadata.jsonl"}


def _class_and_count(clause: object, name: str) -> tuple[str, int]:
    label = as_text(as_field(clause, "class", f"{name} clause"), f"class of {name} clause")
    return label, int(as_number(as_field(clause, "count", f"{name} clause"), f"count of {label!r}"))


def _box(box: Detection, name: str) -> tuple[float, float, float, float]:
    """Return the four corners of a box or detection."""
    if len(box) < 4:
        message = f"{name}: expected [x1, y1, x2, y2], got {list(box)}"
        raise ValueError(message)
    x1, y1, x2, y2 = (as_number(corner, f"corner of {name}") for corner in box[:4])
    return x1, y1, x2, y2


def _detections(detections: Sequence[Detection], name: str) -> npt.NDArray[np.float64]:
    """Return the detections of one class as an array of shape (N, 5)."""
    if any(len(detection) != 5 for detection in detections):
        message = f"detections of {name!r}: expected [x1, y1, x2, y2, score] each, got {list(detections)[:3]}"
        raise ValueError(message)
    return np.asarray(detections, dtype=np.float64).reshape(-1, 5)
