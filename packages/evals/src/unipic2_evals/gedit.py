"""GEdit-Bench's scoring rules (stepfun-ai/Step1X-Edit, arXiv 2504.17761), without its judge.

A judge (VIEScore) is asked twice about an edited image: for semantic consistency (SC: was the edit done, was too much
edited) and for perceptual quality (PQ: naturalness, artifacts), each a list of scores from 0 to 10. The smallest score
of each list counts, and an image gets ``O = sqrt(SC * PQ)``. The benchmark's Overall is the mean over 11 groups of the
mean of O; it is not the root of the product of means.

Quirks of the official code, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `parse_judge_output` does not check the range or the number of scores; broken JSON that it can mend is returned as
      it is, even without scores; from the second try on, a random score stands for a reply without JSON.
    - `aggregate` gives NaN if a group has no rows, ignores rows of unknown groups, and knows Chinese as "cn" alone
      (the official command line offers "zh", which selects no rows).
    - `calculate_dimensions` moves the width by 32 after rounding, whether that comes closer to the area or not.

Published scores differ by judge (GPT-4.1 against Qwen2.5-VL-72B) and are not interchangeable.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from unipic2_evals.checks import as_field, as_name, as_number, as_rows, as_text

__all__ = [
    "GROUPS",
    "LANGUAGES",
    "Aggregate",
    "JudgeReply",
    "OutputPath",
    "aggregate",
    "calculate_dimensions",
    "combine",
    "output_path",
    "parse_judge_output",
]

GROUPS = (
    "background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change", "subject-add",
    "subject-remove", "subject-replace", "text_change", "tone_transfer",
)  # fmt: skip
LANGUAGES = ("en", "cn")
MAX_SCORE = 10
RATE_LIMIT = "rate_limit_exceeded"
DELIMITER = "||V^=^V||"
STEP = 32

GroupScores = dict[str, float]


class JudgeReply(TypedDict):
    """What one reply of the judge says."""

    score: list[float]
    reasoning: str


class Aggregate(TypedDict):
    """Mean scores by group, and their mean as ``average``; the same for rows that exist in both languages."""

    semantics: GroupScores
    quality: GroupScores
    overall: GroupScores
    semantics_intersection: GroupScores
    quality_intersection: GroupScores
    overall_intersection: GroupScores


class OutputPath(TypedDict):
    """Where the official scorer reads and writes, below its save folder."""

    edited: str
    source: str
    csv: str
    """Scores of the group; the column of SC is spelled ``sementics_score``."""


def parse_judge_output(reply: str, guess: int | None = None, official: bool = True) -> Any:
    """Read the scores from a judge's reply.

    Args:
        reply: The judge's text: JSON with ``score`` and ``reasoning``, perhaps between delimiters or other text, or a
            bare list of two integers, or a bare integer.
        guess: The score from 0 to 10 that the official loop draws at random from its second try on, taken if there is
            no JSON object; None on the first try. Never taken unofficially.
        official: True is as lenient as the official parser: it neither checks the range of scores nor that there are
            any. False returns scores from 0 to 10, or False.

    Returns:
        A `JudgeReply`; False if it can not be parsed; the reply itself if it is ``rate_limit_exceeded``. Officially it
        may be any other JSON value where the judge wrote one between delimiters.

    Raises:
        ValueError: If the reply is no text.
    """
    text = as_text(reply, "reply", "a failed call has no reply: ask again")
    if not official:
        return _strict(text)
    if text == RATE_LIMIT:
        return text
    if text.count(DELIMITER) == 2:
        return _loaded(text.split(DELIMITER)[1])
    start, end = text.find("{"), text.rfind("}") + 1
    if start == -1 or end == 0:
        return _bare_scores(text, guess)
    return _loaded(text[start:end])


def combine(SC: Sequence[float], PQ: Sequence[float]) -> list[float]:
    """Return the scores of one image: ``[min SC, min PQ, sqrt(min SC * min PQ)]``.

    Args:
        SC: Scores of semantic consistency, at least one.
        PQ: Scores of perceptual quality, at least one.

    Returns:
        Semantics, quality and overall score.

    Raises:
        ValueError: If there are no scores, or one is negative or no number.
    """
    semantics, quality = (
        min(_score(value, name) for value in as_rows(scores, name)) for name, scores in (("SC", SC), ("PQ", PQ))
    )
    return [semantics, quality, math.sqrt(semantics * quality)]


def aggregate(rows: Sequence[Mapping[str, Any]], language: str = "en", official: bool = True) -> Aggregate:
    """Return the scores of a run in one language.

    Args:
        rows: One mapping an image: ``task_type`` (its group), ``key``, ``instruction_language``, ``intersection_exist``
            (whether the same image has an instruction in the other language), ``semantics`` and ``quality``.
        language: "en" or "cn"; rows of the other are ignored.
        official: True gives NaN for a group without rows, and so for the average. False averages the groups that have
            rows, refuses unknown groups, and takes "zh" for "cn".

    Returns:
        Means by group and over groups.

    Raises:
        ValueError: If there are no rows or a row is malformed; unofficially also if a group or the language is unknown.
    """
    chosen = _language(language, official)
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {"": {}, "_intersection": {}}
    for index, row in enumerate(as_rows(rows, "rows")):
        group, triple, intersects = _checked_row(row, f"row {index}", official)
        if as_field(row, "instruction_language", f"row {index}") != chosen:
            continue
        found[""].setdefault(group, []).append(triple)
        if intersects:
            found["_intersection"].setdefault(group, []).append(triple)
    means = {
        f"{name}{suffix}": _means(scores, column, official)
        for suffix, scores in found.items()
        for column, name in enumerate(("semantics", "quality", "overall"))
    }
    return {
        "semantics": means["semantics"],
        "quality": means["quality"],
        "overall": means["overall"],
        "semantics_intersection": means["semantics_intersection"],
        "quality_intersection": means["quality_intersection"],
        "overall_intersection": means["overall_intersection"],
    }


def calculate_dimensions(target_area: float, ratio: float, official: bool = True) -> list[int]:
    """Return the size at which the official example edits an image. Scoring does not use it.

    Args:
        target_area: Wanted area in pixels.
        ratio: Width over height.
        official: True moves the width by 32 towards the area after rounding, even if that comes out further away.
            False only rounds.

    Returns:
        ``[width, height, area]``; both sides are multiples of 32.

    Raises:
        ValueError: If an argument is not a positive number.
    """
    if as_number(target_area, "target_area") <= 0 or as_number(ratio, "ratio") <= 0:
        message = f"expected a positive area and ratio, got {target_area} and {ratio}"
        raise ValueError(message)
    exact = math.sqrt(target_area * ratio)
    width, height = round(exact / STEP) * STEP, round(exact / ratio / STEP) * STEP
    if official and width * height != target_area:
        width += STEP if width * height < target_area else -STEP
    return [width, height, width * height]


def output_path(model: str, task_type: str, instruction_language: str, key: str, backbone: str = "gpt4o") -> OutputPath:
    """Return where the official scorer reads one pair of images and writes its group's scores, below the save folder.

    Args:
        model: Name of the model's folder.
        task_type: Group of the image.
        instruction_language: "en" or "cn".
        key: The image's key in the dataset.
        backbone: The judge, "gpt4o" or "qwen25vl".

    Returns:
        Relative paths of the edited image, of its source, and of the table of scores.

    Raises:
        ValueError: If a part can not be the name of one file or folder.
    """
    parts = {"model": model, "task_type": task_type, "instruction_language": instruction_language, "key": key}
    for name, part in {**parts, "backbone": backbone}.items():
        as_name(part, name)
    folder = f"{model}/fullset/{task_type}/{instruction_language}"
    return {
        "edited": f"{folder}/{key}.png",
        "source": f"{folder}/{key}_SRCIMG.png",
        "csv": f"{model}/{backbone}/eval_results_new/{model}_{task_type}_gpt_score.csv",
    }


def _bare_scores(text: str, guess: int | None) -> Any:
    """Read a reply without a JSON object."""
    if guess is not None:
        return {"score": [guess], "reasoning": f"guess_if_cannot_parse | {text}"}
    inner = text[text.find("[") : text.rfind("]") + 1]
    if re.fullmatch(r"\[\d+, ?\d+\]", inner):
        scores = _json_or_none(inner)  # None: leading zeros, on which the official code fails
        return {"score": scores, "reasoning": "System: output is simply a list of scores"} if scores else False
    number = _integer(text)
    if number is not None:
        return {"score": [number], "reasoning": "System: output is simply a number"}
    return False


def _loaded(text: str) -> Any:
    """Load JSON, mended if need be; False if it can not be loaded."""
    line = text.strip().replace("\n", "")
    loaded = _json_or_none(line)
    if isinstance(loaded, dict) and "score" in loaded:
        scores = loaded["score"]
        return {**loaded, "score": scores if isinstance(scores, list) else [scores]}
    try:
        return json.loads(_mended(line))
    except (ValueError, RecursionError):
        return False


def _mended(text: str) -> str:
    """Quote bare keys and values of something like JSON, and put bare numbers into lists, as the official code does."""

    def rewritten(pair: re.Match[str]) -> str:
        key, value, end = pair[1], pair[2].strip(), pair[3]
        if re.match(r"-?\d+(\.\d+)?$", value):
            value = f"[{value}]"
        elif value.lower() not in {"true", "false", "null"}:
            value = f'"{value}"'
        return f"{key}: {value}{end}"

    return re.sub(r'(".*?"):(.*?)([,}])', rewritten, re.sub(r"(\w+):", r'"\1":', text))


def _strict(text: str) -> JudgeReply | bool:
    """Return the last readable object with scores, or the scores if the reply is nothing else."""
    decoder = json.JSONDecoder()
    found: JudgeReply | bool = False
    for brace in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and _in_range(value.get("score")):
            scores = value["score"] if isinstance(value["score"], list) else [value["score"]]
            found = {"score": scores, "reasoning": str(value.get("reasoning", ""))}
    if found:
        return found
    bare = _json_or_none(text.strip())
    if _in_range(bare):
        return {"score": bare if isinstance(bare, list) else [bare], "reasoning": ""}
    return False


def _in_range(scores: Any) -> bool:
    values = scores if isinstance(scores, list) else [scores]
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SCORE for value in values
    )


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _integer(text: str) -> int | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number <= MAX_SCORE else None


def _score(value: object, name: str) -> float:
    score = as_number(value, f"score of {name}")
    if score < 0:
        message = f"score of {name}: expected 0 or more, got {score}"
        raise ValueError(message)
    return score


def _language(language: str, official: bool) -> str:
    if official:
        return language
    chosen = "cn" if language == "zh" else language
    if chosen not in LANGUAGES:
        message = f"language: expected one of {LANGUAGES}, got {language!r}"
        raise ValueError(message)
    return chosen


def _checked_row(row: Mapping[str, Any], name: str, official: bool) -> tuple[str, tuple[float, float, float], bool]:
    group = as_text(as_field(row, "task_type", name), f"task_type of {name}")
    if not official and group not in GROUPS:
        message = f"task_type of {name}: expected one of {GROUPS}, got {group!r}"
        raise ValueError(message)
    intersects = as_field(row, "intersection_exist", name)
    if not isinstance(intersects, bool | np.bool_):  # the text "False" would count as true
        message = f"intersection_exist of {name}: expected true or false, got {intersects!r}"
        raise ValueError(message)
    semantics, quality = (_score(as_field(row, key, name), f"{key} of {name}") for key in ("semantics", "quality"))
    return group, (semantics, quality, math.sqrt(semantics * quality)), bool(intersects)


def _means(scores: Mapping[str, Sequence[tuple[float, float, float]]], column: int, official: bool) -> GroupScores:
    groups = [group for group in GROUPS if official or group in scores]
    means = {
        group: float(np.mean([triple[column] for triple in scores[group]])) if group in scores else math.nan
        for group in groups
    }
    return {**means, "average": float(np.mean(list(means.values()))) if means else math.nan}
