"""DPG-Bench's scoring rules (TencentQQGYLab/ELLA, arXiv 2403.05135), without its VQA model.

Every prompt has a graph of yes/no questions; a VQA model (mPLUG-large) answers them for each of the four tiles of one
picture. A question whose parent was answered no counts as no.

Legend:
    question id: text of a number from 1, unique within a prompt.
    tile: one of 2 x 2 images in a picture, in the order top left, top right, bottom left, bottom right.
    crop: ``[left, top, right, bottom]`` in pixels, right and bottom exclusive.

Quirks of the official code, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `prepare_data` skips the first data row, so the first prompt loses question 1; a prompt whose rows are not
      adjacent keeps only its last block.
    - `score_one_prompt` takes only the exact answer "yes" for yes; a parent that is missing drops the picture from the
      mean; a question that refers to a later one sees that one's own answer, not what its parents make of it.
    - The scores of categories use the last tile alone, and its answers before parents count. Unofficially
      `score_one_prompt` also returns ``scores``, the means over tiles after parents count, for `aggregate`.
    - `output_path` takes the key up to the first dot of the file's name.

Not reproduced: with several processes the official script gathers its categories in an order that differs from process
to process.
"""

import csv as csv_format
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NotRequired, TypedDict

import numpy as np

from unipic2_evals.checks import as_field, as_mapping, as_number, as_rows, as_text

__all__ = [
    "Aggregate",
    "Dropped",
    "Graph",
    "OutputPath",
    "PromptScore",
    "aggregate",
    "output_path",
    "prepare_data",
    "score_one_prompt",
]

COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
"""Columns of ``dpg_bench.csv`` that scoring reads; there are more."""
MAX_TILES = 4
NO_PARENT = 0


class Graph(TypedDict):
    """The questions of one prompt, by question id and in the order of the rows."""

    qid2tuple: dict[str, str]
    """What the question is about, for example ``attribute - color (dog, red)``; its category stands before "("."""
    qid2dependency: dict[str, list[int]]
    """Numbers of the parents; 0 = none."""
    qid2question: dict[str, str]


class PromptScore(TypedDict):
    """Scores of one picture."""

    per_image: list[float]
    """Fraction of the questions answered yes, for each tile."""
    average: float
    raw_scores_last_image: dict[str, float]
    """1 or 0 for each question of the last tile, before parents count."""
    crops: list[list[int]]
    scores: NotRequired[dict[str, float]]
    """With ``official=False``: mean over tiles for each question, after parents count."""


class Dropped(TypedDict):
    """A picture on which the official code fails; it is left out of the mean."""

    error: str
    """The error that the official code stumbles over."""
    dropped: bool
    crops: list[list[int]]


class Aggregate(TypedDict):
    """Scores of a whole run, in percent."""

    dpg: float
    """DPG-Bench's score: the mean over prompts."""
    L1: dict[str, float]
    """Mean over the questions of all prompts, by broad category (entity, attribute, relation, global, other)."""
    L2: dict[str, float]
    """The same by detailed category, for example ``attribute - color``."""


class OutputPath(TypedDict):
    """Where the official scorer looks for the picture of one prompt, and how it cuts it."""

    image: str
    size: list[int]
    """Width and height of the picture in pixels."""
    tiles: list[list[int]]
    """Top left corner of each tile."""
    key: str
    """The prompt's item id in ``dpg_bench.csv``."""


def prepare_data(csv: str, official: bool = True) -> dict[str, Graph]:
    """Read the questions of all prompts.

    Args:
        csv: Text of a ``dpg_bench.csv``.
        official: True skips the first data row, and starts a prompt anew where its rows are interrupted by another's.
            False reads every row.

    Returns:
        Graphs by item id, in order of appearance.

    Raises:
        ValueError: If a column is missing, a number can not be read, or (unofficially) a question occurs twice.
    """
    graphs: dict[str, Graph] = {}
    previous = ""
    for number, row in enumerate(_csv_rows(as_text(csv, "csv"))):
        if official and number == 0:
            continue
        item = row["item_id"]
        qid, parents = _numbers(row, number)
        if item not in graphs or (official and item != previous):
            graphs[item] = {"qid2tuple": {}, "qid2dependency": {}, "qid2question": {}}
        graph = graphs[item]
        if not official and qid in graph["qid2tuple"]:
            message = f"csv: question {qid} of {item!r} occurs twice (data row {number + 1})"
            raise ValueError(message)
        graph["qid2tuple"][qid] = row["tuple"]
        graph["qid2dependency"][qid] = parents
        graph["qid2question"][qid] = row["question_natural_language"]
        previous = item
    return graphs


def score_one_prompt(
    questions: Mapping[str, Mapping[str, Any]],
    answers: Sequence[Mapping[str, str]],
    pic_num: int = 4,
    resolution: int = 512,
    official: bool = True,
) -> PromptScore | Dropped:
    """Score one picture from the answers about its tiles.

    Args:
        questions: ``{"dependency": [parents], "tuple": text}`` by question id, in the order of the rows.
        answers: For each tile, the VQA model's answer by question id.
        pic_num: Tiles that are scored, 1 to 4.
        resolution: Side of a tile in pixels.
        official: True takes exactly "yes" for yes, resolves parents in the order of the rows, and drops the picture if
            a parent is missing. False ignores case, blanks and final punctuation of an answer, and resolves parents
            before their children.

    Returns:
        The scores, or what dropped the picture.

    Raises:
        ValueError: If there are not ``pic_num`` answers or one lacks a question; unofficially also if there are no
            questions, a parent is missing, or questions are each other's parents.
    """
    crops = _crops(pic_num, resolution)
    if len(as_rows(answers, "answers")) != pic_num:
        message = f"answers: expected one entry for each of {pic_num} tiles, got {len(answers)}"
        raise ValueError(message)
    parents = {
        str(qid): [int(as_number(parent, f"dependency of question {qid}")) for parent in _parents(question, qid)]
        for qid, question in as_mapping(questions, "questions").items()
    }
    order = list(parents) if official else _parents_first(parents)
    per_image, raw, settled = [], {}, []
    for tile, answered in enumerate(answers):
        raw = {qid: _is_yes(answered, qid, tile, official) for qid in parents}
        try:
            scores = _after_parents(raw, parents, order)
            per_image.append(sum(scores.values()) / len(scores))
        except (KeyError, ZeroDivisionError) as error:
            return {"error": type(error).__name__, "dropped": True, "crops": crops}
        settled.append(scores)
    result: PromptScore = {
        "per_image": per_image,
        "average": sum(per_image) / len(per_image),
        "raw_scores_last_image": raw,
        "crops": crops,
    }
    if not official:
        result["scores"] = {qid: sum(scores[qid] for scores in settled) / len(settled) for qid in parents}
    return result


def aggregate(prompts: Sequence[Mapping[str, Any]]) -> Aggregate:
    """Return the scores of a run.

    Args:
        prompts: One mapping a prompt: ``average``, ``tuples`` {question id: tuple} and ``raw`` {question id: score}
            (officially ``raw_scores_last_image`` of `score_one_prompt`). Officially, dropped pictures are left out.

    Returns:
        Percentages; categories in order of first appearance.

    Raises:
        ValueError: If there are no prompts, or a question has no score.
    """
    averages: list[float] = []
    broad: dict[str, list[float]] = {}
    detailed: dict[str, list[float]] = {}
    for index, prompt in enumerate(as_rows(prompts, "prompts")):
        name = f"prompt {index}"
        averages.append(as_number(as_field(prompt, "average", name), f"average of {name}"))
        raw = as_field(prompt, "raw", name)
        for qid, label in as_mapping(as_field(prompt, "tuples", name), f"tuples of {name}").items():
            score = as_number(as_field(raw, qid, f"raw of {name}"), f"raw score {qid} of {name}")
            category = as_text(label, f"tuple {qid} of {name}").split("(")[0].strip()
            detailed.setdefault(category, []).append(score)
            broad.setdefault(category.split("-")[0].strip(), []).append(score)
    return {"dpg": _percent(averages), "L1": _percents(broad), "L2": _percents(detailed)}


def output_path(prompt_file: str, resolution: int = 512, official: bool = True) -> OutputPath:
    """Return where the official scorer looks for the picture of one prompt, below the image folder.

    Args:
        prompt_file: Name of the prompt's file, for example ``partiprompts180.txt``.
        resolution: Side of a tile in pixels.
        official: True takes the key up to the first dot of the picture's name, so that a dot within a prompt's name
            would lose its questions. False takes the whole name without its ending.

    Returns:
        The picture's path, its size, the corners of its tiles and its key.
    """
    stem = PurePath(as_text(prompt_file, "prompt_file")).stem
    crops = _crops(MAX_TILES, resolution)
    return {
        "image": f"{stem}.png",
        "size": [2 * resolution, 2 * resolution],
        "tiles": [crop[:2] for crop in crops],
        "key": stem.split(".")[0] if official else stem,
    }


def _csv_rows(text: str) -> Iterator[dict[str, str]]:
    reader = csv_format.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    missing = sorted(set(COLUMNS) - set(reader.fieldnames or ()))
    if missing:
        message = f"csv: columns {missing} are missing; expected the text of a dpg_bench.csv"
        raise ValueError(message)
    try:
        for row in reader:
            if None in (row[column] for column in COLUMNS):
                message = f"csv: the row that ends in line {reader.line_num} is too short: {list(row.values())}"
                raise ValueError(message)
            yield row
    except csv_format.Error as error:
        message = f"csv: line {reader.line_num}: {error}; is a quotation mark left open?"
        raise ValueError(message) from None


def _numbers(row: Mapping[str, str], number: int) -> tuple[str, list[int]]:
    try:
        return str(int(float(row["proposition_id"]))), [int(parent) for parent in row["dependency"].split(",")]
    except (ValueError, OverflowError):
        message = (
            f"csv: data row {number + 1}: expected a number in proposition_id and a comma list of numbers in dependency"
            f" (0 = none), got {row['proposition_id']!r} and {row['dependency']!r}"
        )
        raise ValueError(message) from None


def _parents(question: Mapping[str, Any], qid: str) -> Sequence[Any]:
    return as_rows(as_field(question, "dependency", f"question {qid}"), f"dependency of question {qid}", least=0)


def _crops(pic_num: int, resolution: int) -> list[list[int]]:
    if not 1 <= as_number(pic_num, "pic_num") <= MAX_TILES or as_number(resolution, "resolution") < 1:
        message = f"expected 1 to {MAX_TILES} tiles with a side of 1 pixel or more, got {pic_num} of {resolution}"
        raise ValueError(message)
    side = resolution
    corners = [(0, 0), (side, 0), (0, side), (side, side)][:pic_num]
    return [[left, top, left + side, top + side] for left, top in corners]


def _is_yes(answered: Mapping[str, str], qid: str, tile: int, official: bool) -> float:
    answer = as_text(as_field(answered, qid, f"answers of tile {tile}"), f"answer {qid} of tile {tile}")
    return float((answer if official else answer.strip().rstrip(".!,").lower()) == "yes")


def _after_parents(
    raw: Mapping[str, float], parents: Mapping[str, Sequence[int]], order: Sequence[str]
) -> dict[str, float]:
    """Zero the questions with a parent at 0, one after the other; a KeyError if a parent is looked up in vain."""
    scores = dict(raw)
    for qid in order:
        if any(scores[str(parent)] == 0 for parent in parents[qid] if parent != NO_PARENT):
            scores[qid] = 0.0
    return scores


def _parents_first(parents: Mapping[str, Sequence[int]]) -> list[str]:
    if not parents:
        message = "questions: expected at least one"
        raise ValueError(message)
    order: list[str] = []
    waiting = {qid: {str(parent) for parent in of if parent != NO_PARENT} for qid, of in parents.items()}
    lost = {qid: sorted(of - set(parents)) for qid, of in waiting.items() if of - set(parents)}
    if lost:
        message = f"questions: parents that are no questions, by question: {lost}; read the csv with official=False"
        raise ValueError(message)
    while waiting:
        ready = [qid for qid, of in waiting.items() if of <= set(order)]
        if not ready:
            message = f"questions: {sorted(waiting)} are each other's parents"
            raise ValueError(message)
        order.extend(ready)
        waiting = {qid: of for qid, of in waiting.items() if qid not in ready}
    return order


def _percent(scores: Sequence[float]) -> float:
    return float(np.mean(scores)) * 100


def _percents(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {category: _percent(values) for category, values in scores.items()}
