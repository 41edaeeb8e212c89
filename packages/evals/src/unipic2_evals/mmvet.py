"""MM-Vet's scoring rules (yuweihao/MM-Vet, arXiv 2308.02490; as in open-compass/VLMEvalKit), without its judge.

A judge (GPT-4) grades every answer from 0.0 to 1.0; the score is 100 times the mean. Questions are tagged with the
capabilities that they need (rec, ocr, know, gen, spat, math); a combination of tags is an integration.

Quirks of the official code, kept by ``official=True`` (the default); ``official=False`` mends them:
    - `parse_judge` takes "nan" for a score, anything after the number spoils it, and five failures are a score of 0.
    - `aggregate` keeps capabilities and integrations in one table, so that questions with a single tag count twice in
      the score of their capability, and their integration shows that score. Tags are found as parts of the text.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from unipic2_evals.checks import as_field, as_rows, as_text

__all__ = ["CAPABILITIES", "Aggregate", "aggregate", "parse_judge"]

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
TRIES = 5
"""How often the judge is asked for one grade."""


class Aggregate(TypedDict):
    """Scores of a run, in percent; each table ends with ``Overall``."""

    capability: dict[str, float]
    """By tag; capabilities without questions are absent."""
    integration: dict[str, float]
    """By combination of tags, joined by "_"."""


def parse_judge(replies: Sequence[str], official: bool = True) -> float | None:
    """Return the grade in a judge's replies.

    Args:
        replies: The judge's replies to the same question, one try after the other; at most five are read.
        official: True takes a reply that is a number from 0 to 1 and nothing else, or NaN. False takes a reply that
            begins with such a number, as MM-Vet's own script does.

    Returns:
        The first grade; if there is none, 0.0, or unofficially None.

    Raises:
        ValueError: If there are no replies, or one is no text.
    """
    for reply in as_rows(replies, "replies")[:TRIES]:
        text = as_text(reply, "reply", "leave out failed calls")
        grade = _number(text if official else _leading(text))
        if grade is not None and (0 <= grade <= 1 or (official and math.isnan(grade))):
            return grade
    return 0.0 if official else None


def aggregate(rows: Sequence[Mapping[str, Any]], official: bool = True) -> Aggregate:
    """Return the scores of a run.

    Args:
        rows: One mapping a question: ``category`` (its tags, joined by commas) and ``score`` (its grade, in [0, 1]).
        official: True counts questions with a single tag twice in that tag's capability. False counts each once.

    Returns:
        Scores by capability and by integration; NaN where a grade is NaN.

    Raises:
        ValueError: If there are no rows, or a field is missing or malformed.
    """
    capability: dict[str, list[float]] = {name: [] for name in CAPABILITIES}
    integration: dict[str, list[float]] = {}
    grades: list[float] = []
    for index, row in enumerate(as_rows(rows, "rows")):
        category = as_text(as_field(row, "category", f"row {index}"), f"category of row {index}")
        grade = _grade(as_field(row, "score", f"row {index}"), f"score of row {index}")
        tags = [tag.strip() for tag in category.split(",")]
        for name in CAPABILITIES:
            if name in (category if official else tags):
                capability[name].append(grade)
        joined = category.replace(",", "_") if official else "_".join(tags)
        # In the official table a capability and the integration of that tag alone are one entry.
        shared = official and joined in capability
        (capability if shared else integration).setdefault(joined, []).append(grade)
        if shared:
            integration[joined] = capability[joined]
        grades.append(grade)
    return {
        "capability": {name: _percent(found) for name, found in [*capability.items(), ("Overall", grades)] if found},
        "integration": {name: _percent(found) for name, found in [*integration.items(), ("Overall", grades)]},
    }


def _percent(grades: Sequence[float]) -> float:
    return sum(grades) / len(grades) * 100


def _leading(text: str) -> str:
    """Return the number at the beginning, unless it is part of a word, a fraction or a percentage."""
    found = re.match(r"\s*(\d*\.?\d+)(?![\w%/]|\.\d)", text)
    return found[1] if found else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _grade(value: object, name: str) -> float:
    grade = value if isinstance(value, int | float) else _number(str(value))
    if grade is None or not (0 <= grade <= 1 or math.isnan(grade)):
        message = f"{name}: expected a grade from 0 to 1, got {value!r}"
        raise ValueError(message)
    return float(grade)
