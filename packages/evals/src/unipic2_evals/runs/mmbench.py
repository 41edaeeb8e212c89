"""MMBench from a local file: its questions are put to the model under test, and rules judge the replies."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import mmbench
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_number
from unipic2_evals.pictures import Embedded, Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle
from unipic2_evals.tables import is_absent, picture_of, table_rows

__all__ = ["MMBenchRun"]

QUIRKS = ("article A is option A", "any letter after answer is", "texts match within words", "rotations may be missing")
ASK = "Please select the correct answer from the options above. \n"


class MMBenchRun:
    """The questions of one file, all rotations of one question being one item.

    Args:
        folder: The model's folder; nothing is read from it but answers.
        options: ``data``: the benchmark's TSV, or its rows as JSONL or Parquet, with answers (``dev``, not ``test``).
    """

    name = "mmbench"
    binary = True
    rules: JudgeId | None = JudgeId("rules", "exact matching of VLMEvalKit e8e78f0")

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data")
        if options.data is None:
            message = "mmbench: --data is missing: a TSV, JSONL or Parquet with questions and answers"
            raise ValueError(message)
        self.folder, self.data, self.official = folder, options.data, options.official
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        self.settings: Mapping[str, Any] = {}

    def items(self) -> list[Item]:
        """Return the questions in order of appearance."""
        rows = {}
        for name, row in table_rows(self.data):
            index = int(float(as_field(row, "index", name)))
            if index in rows:
                message = f"{name}: index {index} occurs twice"
                raise ValueError(message)
            rows[index] = {**row, "index": index, "name": name}
        questions: dict[int, list[dict[str, Any]]] = {}
        for index, row in rows.items():
            questions.setdefault(index % mmbench.ROTATION, []).append(row)
        return [self._item(number, rotations, rows) for number, rotations in questions.items()]

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Apply circular evaluation."""
        rows = [
            {**_options(row), "index": row["index"], "GT": row["answer"], "prediction": prediction}
            for row, prediction in zip(item.about["rotations"], answers, strict=True)
        ]
        circular = mmbench.circular_group(rows, self.official)
        vanilla = mmbench.vanilla_group(rows, self.official)
        said = "; ".join(f"{row['GT']}: {str(row['prediction'])[:60]}" for row in rows)
        return _scored(float(circular), float(vanilla), said)

    def zero(self, item: Item) -> Scored:  # noqa: ARG002 - any item
        """Return a wrong answer."""
        return _scored(0.0, 0.0, "")

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return categories, and overall accuracy without and with circular evaluation."""
        categories = dict.fromkeys(item.group for item in items)
        return [
            *(Measure(category, "circular", category) for category in categories),
            Measure("vanilla", "vanilla"),
            Measure("overall", "circular"),
        ]

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:  # noqa: ARG002 - none is needed
        """Return nothing: MMBench's scores are plain means of verdicts."""
        return {}

    def _item(self, number: int, rotations: Sequence[dict[str, Any]], rows: Mapping[int, Mapping[str, Any]]) -> Item:
        requests = tuple(self._request(row, rows) for row in rotations)
        first = rotations[0]
        category = first.get("category")
        group = "no category" if is_absent(category) else str(category)
        about = {"rotations": rotations}
        return Item(str(number), str(first["question"]), str(number), group, (), requests, about=about)

    def _request(self, row: Mapping[str, Any], rows: Mapping[int, Mapping[str, Any]]) -> Request:
        name, options = row["name"], _options(row)
        answer = as_field(row, "answer", name)
        if answer not in options:
            message = f"{name}: answer {answer!r} is none of its options {list(options)}; the test split has no answers"
            raise ValueError(message)
        hint = row.get("hint")
        lines = [] if is_absent(hint) else [f"Hint: {hint}\n"]
        lines += [f"Question: {as_field(row, 'question', name)}\n", "Options:\n"]
        lines += [f"{letter}. {text}\n" for letter, text in options.items()]
        return Request("reply", (self._picture(row, rows),), "".join(lines) + ASK)

    def _picture(self, row: Mapping[str, Any], rows: Mapping[int, Mapping[str, Any]]) -> Picture | Embedded:
        """Return a question's picture; a number stands for the picture of the row with that index."""
        cell = as_field(row, "image", row["name"])
        if isinstance(cell, str) and len(cell) <= 64 and cell.isdecimal():
            other = rows.get(int(as_number(int(cell), "image")))
            cell = as_field(other, "image", f"image of {row['name']}: row of index {cell}")
        return picture_of(cell, self.data.parent, f"image of {row['name']}")


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    return {letter: str(row[letter]) for letter in string.ascii_uppercase if not is_absent(row.get(letter))}


def _scored(circular: float, vanilla: float, note: str) -> Scored:
    return Scored({"circular": circular, "vanilla": vanilla}, {"circular": circular}, note=note)
