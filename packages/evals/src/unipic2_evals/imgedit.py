"""ImgEdit-Bench's scoring rules (PKU-YuanGroup/ImgEdit, arXiv 2505.20275), without its judge.

A judge gives every edited image three scores from 1 to 5, each on a line of its own; the second and third are about
quality, and its instructions say that they must not exceed the first (was the edit done). An image gets their mean.

Published tables use three Overalls that must not be compared; `overalls` gives all of them by name:
    - the mean of the nine edit types (the leaderboards; GenEditEvalKit computes it),
    - the mean of the images (BAGEL's script, TorchUMM),
    - the mean of the images with 0 for each that failed (lmms-eval).
The official repository stops at the edit types. Its judge is gpt-4o by its script and GPT-4.1 by its leaderboard.

Quirks of the official codes, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `parse_and_average` reads only lines like "Name: 4": "4.", "4/5" and "Name:4" are lost, a number above 5 counts,
      so does any line that looks like a score, two scores are as good as three, and the rule that the second and third
      must not exceed the first is not enforced. An image without any score is left out of all means.
    - A failed call is stored as a mapping, on which the official code fails: `parse_and_average` refuses it.
    - `parse_three_scores_lmms_eval` gives zeros where it finds no three numbers, and reads "4.5" as 4.
    - `per_type_official` and the Overalls round to two decimals, the macro Overall twice; images without metadata are
      ignored by edit type, but count in BAGEL's Overall.
"""

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from unipic2_evals.checks import as_mapping, as_name, as_number, as_text

__all__ = [
    "EDIT_TYPES",
    "OutputPath",
    "Overalls",
    "output_path",
    "overall_macro_geneditevalkit",
    "overall_sample_mean_bagel",
    "overalls",
    "parse_and_average",
    "parse_three_scores_lmms_eval",
    "per_type_official",
]

EDIT_TYPES = ("replace", "add", "adjust", "remove", "style", "action", "extract", "background", "compose")
MAX_DIGITS = 300
"""Longer numbers overflow a float; the official code fails on them."""

Scores = Mapping[str, float]
Metadata = Mapping[str, Mapping[str, Any]]

_SCORE = re.compile(r"[\s*_]*([1-5])(?:\.0*)?(?:\s*(?:/|out of)\s*5)?[\s*_.]*")
"""What follows a name and a colon: "4", "4.", "**4**", "4/5", "4 out of 5"."""


class Overalls(TypedDict):
    """One run, summed up in the three ways that are in use."""

    macro: float
    """Mean of the edit types' means: leaderboards, papers."""
    sample_mean: float
    """Mean of the images that have a score: BAGEL's script."""
    sample_mean_failures_zero: float
    """Mean of all images, 0 for those without a score: lmms-eval (which reads replies by rules of its own)."""


class OutputPath(TypedDict):
    """File names in the flat output folder."""

    edited: str
    judge_output: str
    """All replies, as JSON ``{key: reply}``."""


def parse_and_average(reply: str, official: bool = True) -> float | None:
    """Return the mean of the scores in a judge's reply.

    Args:
        reply: The judge's text.
        official: True takes every line ``name: number``, split at ": ", and rounds the mean to two decimals. False
            takes the last three scores from 1 to 5, however they are written, lowers the second and third to the
            first, and does not round.

    Returns:
        The mean; None if there is no score (unofficially: no three scores), which leaves the image out.

    Raises:
        ValueError: If the reply is no text. Unofficially that is None too.
    """
    if not official:
        scores = _last_three(reply)
        return None if scores is None else (scores[0] + sum(min(score, scores[0]) for score in scores[1:])) / 3
    found = []
    for line in as_text(reply, "reply", "a failed call has no reply: ask again, or leave it out").splitlines():
        parts = line.strip().split(": ")
        if len(parts) == 2 and parts[1].isdecimal() and len(parts[1]) <= MAX_DIGITS:
            found.append(int(parts[1]))
    return round(sum(found) / len(found), 2) if found else None


def parse_three_scores_lmms_eval(reply: str, official: bool = True) -> list[float] | None:
    """Return the three scores in a judge's reply, as lmms-eval reads it.

    Args:
        reply: The judge's text.
        official: True takes the last three numbers after a colon, else the last three lines that end in a number, else
            zeros; numbers are cut at the decimal point and may be any. False takes the last three scores from 1 to 5.

    Returns:
        Three scores; unofficially None if there are none.
    """
    if not official:
        return _last_three(reply)
    if not isinstance(reply, str):
        return [0.0, 0.0, 0.0]
    after_colon = re.findall(r":\s*(\d+)", reply)
    at_the_end = [match[1] for line in reply.strip().split("\n") if (match := re.search(r"(\d+)\s*$", line.strip()))]
    for numbers in (after_colon, at_the_end):
        if len(numbers) >= 3:
            return [float(number) for number in numbers[-3:]]
    return [0.0, 0.0, 0.0]


def per_type_official(scores: Scores, meta: Metadata, official: bool = True) -> dict[str, float]:
    """Return the mean score of each edit type.

    Args:
        scores: Mean score of each image that has one (what `parse_and_average` gives).
        meta: ``{"id", "prompt", "edit_type"}`` of each image: the benchmark's JSON.
        official: True rounds to two decimals and ignores images without metadata or edit type. False does not round,
            and refuses such images.

    Returns:
        Means by edit type, in order of first appearance.

    Raises:
        ValueError: If a score is no number; unofficially also if an image has no edit type.
    """
    by_type: dict[str, list[float]] = {}
    for key, score in as_mapping(scores, "scores").items():
        value = as_number(score, f"score of {key!r} (leave out images without one)")
        edit_type = as_mapping(as_mapping(meta, "meta").get(key, {}), f"metadata of {key!r}").get("edit_type")
        if edit_type is not None:
            by_type.setdefault(as_text(edit_type, f"edit_type of {key!r}"), []).append(value)
        elif not official:
            message = f"metadata of {key!r}: no edit type; is it of another version of the benchmark?"
            raise ValueError(message)
    return {edit_type: _mean(values, official) for edit_type, values in by_type.items()}


def overall_sample_mean_bagel(scores: Scores, meta: Metadata, official: bool = True) -> dict[str, float]:
    """Return the means by edit type, and as ``overall`` the mean over images (BAGEL's script).

    Args:
        scores: Mean score of each image that has one.
        meta: Metadata of each image.
        official: See `per_type_official`. Officially images without metadata count in ``overall``.

    Returns:
        What `per_type_official` returns, with ``overall`` if there are scores.

    Raises:
        ValueError: See `per_type_official`.
    """
    means = per_type_official(scores, meta, official)
    return {**means, "overall": _mean(list(scores.values()), official)} if scores else means


def overall_macro_geneditevalkit(scores: Scores, meta: Metadata, official: bool = True) -> dict[str, float]:
    """Return the means by edit type, and as ``Overall`` their unweighted mean (GenEditEvalKit, the leaderboards).

    Args:
        scores: Mean score of each image that has one.
        meta: Metadata of each image.
        official: See `per_type_official`. Officially the mean is that of rounded means, rounded again.

    Returns:
        What `per_type_official` returns, with ``Overall``.

    Raises:
        ValueError: See `per_type_official`; also if no image has an edit type.
    """
    means = per_type_official(scores, meta, official)
    if not means:
        message = f"none of {len(scores)} images has a score and an edit type: there is no mean of edit types"
        raise ValueError(message)
    return {**means, "Overall": _mean(list(means.values()), official)}


def overalls(scores: Mapping[str, float | None], meta: Metadata, official: bool = True) -> Overalls:
    """Return all Overalls of a run by name.

    Args:
        scores: Mean score of each image that was judged; None for one whose reply could not be read.
        meta: Metadata of each image.
        official: See `per_type_official`; lmms-eval never rounds.

    Returns:
        The three Overalls.

    Raises:
        ValueError: See `overall_macro_geneditevalkit`.
    """
    read = {key: score for key, score in as_mapping(scores, "scores").items() if score is not None}
    return {
        "macro": overall_macro_geneditevalkit(read, meta, official)["Overall"],
        "sample_mean": overall_sample_mean_bagel(read, meta, official)["overall"],
        "sample_mean_failures_zero": sum(read.values()) / len(scores),
    }


def output_path(key: str) -> OutputPath:
    """Return the file names of one image in the official flat output folder.

    Args:
        key: The image's key in the benchmark's JSON.

    Returns:
        Name of the edited image, and of the file with the judge's replies about all of them.

    Raises:
        ValueError: If the key can not be the name of a file.
    """
    return {"edited": f"{as_name(key, 'key')}.png", "judge_output": "result.json"}


def _last_three(reply: object) -> list[float] | None:
    lines = reply.splitlines() if isinstance(reply, str) else []
    pairs = [
        (name, rest) for name, colon, rest in (line.rpartition(":") for line in lines) if colon and name.strip("*_ ")
    ]
    scores = [float(match[1]) for _, rest in pairs if (match := _SCORE.fullmatch(rest))]
    return scores[-3:] if len(scores) >= 3 else None


def _mean(values: list[float], rounded: bool) -> float:
    mean = sum(values) / len(values)
    return round(mean, 2) if rounded else mean
