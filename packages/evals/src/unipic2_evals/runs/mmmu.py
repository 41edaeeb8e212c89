"""MMMU from a local file: its questions are put to the model under test, and rules judge the replies."""

import ast
import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import mmmu
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_rows, as_text
from unipic2_evals.pictures import Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle
from unipic2_evals.tables import is_absent, picture_of, table_rows

__all__ = ["MMMURun"]

QUIRKS: dict[mmmu.Variant, tuple[str, ...]] = {
    "lmms_eval": ("random guesses", "letters at the ends of words", "open questions are never right"),
    "vlmevalkit": ("article A is option A", "open questions as a choice of two"),
}
REVISIONS: dict[mmmu.Variant, str] = {"lmms_eval": "lmms-eval 75571cf", "vlmevalkit": "VLMEvalKit e8e78f0"}
MOST_IMAGES = 7
CHOOSE = "Answer with the option's letter from the given choices directly."
WRITE = "Answer the question using a single word or phrase."


class MMMURun:
    """The questions of one file, in the words of lmms-eval; ``<image 1>`` stays where a picture belongs.

    Args:
        folder: The model's folder; nothing is read from it but answers.
        options: ``data``: the dataset's rows as Parquet or JSONL (``id``, ``question``, ``options``, ``answer``,
            ``question_type``, ``image_1`` to ``image_7``). ``variant``: whose rules (lmms_eval).
    """

    name = "mmmu"
    binary = True
    rules: JudgeId | None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data", "variant")
        if options.data is None:
            message = "mmmu: --data is missing: a Parquet or JSONL file with questions and answers"
            raise ValueError(message)
        self.folder, self.data, self.official = folder, options.data, options.official
        self.variant: mmmu.Variant = options.variant or "lmms_eval"
        self.rules = JudgeId("rules", REVISIONS[self.variant])
        self.quirks: tuple[str, ...] = QUIRKS[self.variant] if options.official else ()
        self.settings: Mapping[str, Any] = {"variant": self.variant}
        self._rng = random.Random(mmmu.GUESS_SEED)

    def items(self) -> list[Item]:
        """Return the questions in order; guesses of the official rules are drawn anew, in the order of scoring."""
        self._rng = random.Random(mmmu.GUESS_SEED)
        return [self._item(name, row) for name, row in table_rows(self.data)]

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Read the reply and compare it with the answer."""
        question = {**item.about, "response": answers[0]}
        correct = mmmu.answer_correct(question, self.variant, self._rng, self.official)
        return Scored({"correct": float(correct)}, question, note=f"{item.about['answer']}: {answers[0][:80]}")

    def zero(self, item: Item) -> Scored:
        """Return a wrong answer."""
        return Scored({"correct": 0.0}, {**item.about, "response": ""})

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the subjects, and the accuracy over all questions."""
        subjects = dict.fromkeys(item.group for item in items)
        return [*(Measure(subject, "correct", subject) for subject in subjects), Measure("overall", "correct")]

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return the accuracies of the official evaluation."""
        subjects = mmmu.evaluate(list(records.values()), self.variant, self.official)
        scores: dict[str, Any] = {**subjects}
        overall = mmmu.instance_level_accuracy(scores)
        return {**{subject: score["acc"] for subject, score in subjects.items()}, "overall": overall}

    def _item(self, name: str, row: Mapping[str, Any]) -> Item:
        key, question, kind = (
            as_text(as_field(row, field, name), f"{field} of {name}") for field in ("id", "question", "question_type")
        )
        options = _list(as_field(row, "options", name), f"options of {name}")
        answer = as_field(row, "answer", name)
        if answer == "?":
            message = f"{name}: no answer; take the validation split, or the test split with answers"
            raise ValueError(message)
        about = {"id": key, "question_type": kind, "options": options, "answer": _answers(answer, name)}
        cells = {f"image_{number}": row.get(f"image_{number}") for number in range(1, MOST_IMAGES + 1)}
        pictures = tuple(
            picture_of(cell, self.data.parent, f"{field} of {name}")
            for field, cell in cells.items()
            if not is_absent(cell)
        )
        choices = "\n".join(f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, options, strict=False))
        text = f"{question}\n{choices}\n\n{CHOOSE}" if kind == "multiple-choice" else f"{question}\n\n{WRITE}"
        subject = key.partition("_")[2].rpartition("_")[0]
        return Item(key, question, key, subject, (), (Request("reply", pictures, text),), about=about)


def _list(value: object, name: str) -> list[str]:
    """Return a list that may be written as Python text, as the dataset has it."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            message = f"{name}: expected a list, or one written as text, got {value!r}"
            raise ValueError(message) from None
    return [str(entry) for entry in as_rows(value, name, least=0)]


def _answers(value: object, name: str) -> str | list[str]:
    """Return an answer, or several where the dataset writes a list as text."""
    if isinstance(value, str) and value.startswith("["):
        return _list(value, f"answer of {name}")
    return value if isinstance(value, str) else [str(entry) for entry in as_rows(value, f"answer of {name}")]
