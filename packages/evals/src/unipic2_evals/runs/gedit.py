"""GEdit-Bench's output folder: ``fullset/GROUP/LANGUAGE/KEY.png`` and ``KEY_SRCIMG.png`` below the model's folder."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import gedit
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_text
from unipic2_evals.pictures import Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle
from unipic2_evals.tables import table_rows

__all__ = ["GEditRun"]

MEASURES = ("semantics", "quality", "overall")
PROMPT_PARTS = {
    "SC": ("_context_no_delimit", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC"),
    "PQ": ("_context_no_delimit", "_prompts_0shot_rule_PQ"),
}
"""Texts in the official ``viescore/vie_prompts.py`` of which the two instructions are made, a line break between."""
COLUMNS = ("key", "task_type", "instruction", "instruction_language", "Intersection_exist")
QUIRKS = ("lenient judge parser", "empty group gives NaN")


class GEditRun:
    """A model's folder.

    The official loop asks again, both calls, when a reply can not be read, and takes a random score from the second
    try on; here such an item has failed, and is counted.

    Args:
        folder: The model's folder, the one that holds ``fullset``.
        options: ``data``: the dataset's rows as Parquet (a file, or the folder of its parts) or JSONL (``key``,
            ``task_type``, ``instruction``, ``instruction_language``, ``Intersection_exist``; images are not read).
            ``prompts``: the official ``viescore/vie_prompts.py``, of which texts are read and nothing is run.
    """

    name = "gedit"
    binary = False
    rules: JudgeId | None = None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data", "prompts")
        if options.data is None or options.prompts is None:
            message = "gedit: expected --data (the dataset's rows) and --prompts (viescore/vie_prompts.py)"
            raise ValueError(message)
        self.folder, self.data, self.official = folder, options.data, options.official
        self.prompts = read_prompts(options.prompts)
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        self.settings: Mapping[str, Any] = {}

    def items(self) -> list[Item]:
        """Return the edits of both languages, as far as the rows have them."""
        return [self._item(row, name) for name, row in table_rows(self.data, COLUMNS)]

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Read both replies and combine their scores."""
        scores = []
        for name, reply in zip(("SC", "PQ"), answers, strict=True):
            parsed = gedit.parse_judge_output(reply, official=self.official)
            found = parsed.get("score") if isinstance(parsed, dict) else None
            if not isinstance(found, list) or not found:
                return Scored({}, failed=f"no scores in the reply about {name}: {str(reply)[:80]!r}")
            scores.append(found)
        try:
            semantics, quality, _ = gedit.combine(*scores)
        except ValueError as error:
            return Scored({}, failed=str(error))
        return self._scored(item, semantics, quality)

    def zero(self, item: Item) -> Scored:
        """Return an edit with nothing done."""
        return self._scored(item, 0.0, 0.0)

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return, by language, O of each group and the averages over groups of SC, PQ and O."""
        found = {item.about["instruction_language"] for item in items}
        rows: list[Measure] = []
        for language in (language for language in ("cn", "en") if language in found):
            groups = {item.group for item in items if item.about["instruction_language"] == language}
            rows += [
                Measure(f"{language} {group}", f"{language} overall", group)
                for group in gedit.GROUPS
                if group in groups
            ]
            names = [f"{language} {name}" for name in MEASURES]
            both = [f"{name} intersection" for name in names]
            shared = any(item.about["Intersection_exist"] for item in items)
            rows += [Measure(name, name, macro=True) for name in (both if shared else []) + names]
        return rows

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return the averages over groups, and O of each group."""
        values: dict[str, float] = {}
        rows = list(records.values())
        for language in sorted({row["instruction_language"] for row in rows}):
            result = gedit.aggregate(rows, language, self.official)
            values |= {f"{language} {group}": score for group, score in result["overall"].items() if group != "average"}
            values |= {f"{language} semantics": result["semantics"]["average"]}
            values |= {f"{language} quality": result["quality"]["average"]}
            values |= {f"{language} overall": result["overall"]["average"]}
            values |= {f"{language} semantics intersection": result["semantics_intersection"]["average"]}
            values |= {f"{language} quality intersection": result["quality_intersection"]["average"]}
            values |= {f"{language} overall intersection": result["overall_intersection"]["average"]}
        return values

    def _item(self, row: Mapping[str, Any], name: str) -> Item:
        group, language, key, instruction = (
            as_text(as_field(row, field, name), f"{field} of {name}")
            for field in ("task_type", "instruction_language", "key", "instruction")
        )
        about = {"instruction_language": language, "Intersection_exist": as_field(row, "Intersection_exist", name)}
        paths = gedit.output_path(self.folder.name, group, language, key)
        source, edited = (self.folder.parent / paths[which] for which in ("source", "edited"))
        absent = [path.name for path in (source, edited) if not path.is_file()]
        unique = f"{group}/{language}/{key}"
        if absent:
            return Item(unique, instruction, key, group, (), (), f"no {' and no '.join(absent)}", about)
        resized = Picture(edited, like=source)
        requests = (
            Request("reply", (Picture(source), resized), self.prompts["SC"].replace("<instruction>", instruction)),
            Request("reply", (resized,), self.prompts["PQ"]),
        )
        return Item(unique, instruction, f"{group}/{key}", group, (source, edited), requests, about=about)

    def _scored(self, item: Item, semantics: float, quality: float) -> Scored:
        language, shared = item.about["instruction_language"], item.about["Intersection_exist"]
        found = dict(zip(MEASURES, gedit.combine([semantics], [quality]), strict=True))
        values = {f"{language} {name}": value for name, value in found.items()}
        if shared:
            values |= {f"{language} {name} intersection": value for name, value in found.items()}
        group, _, key = item.key.split("/")
        record = {
            "task_type": group,
            "key": key,
            "instruction_language": language,
            "intersection_exist": shared,
            "semantics": semantics,
            "quality": quality,
        }
        return Scored(values, record)


def read_prompts(path: Path) -> dict[str, str]:
    """Return the judge's two instructions from the official ``vie_prompts.py``; its code is not run.

    Raises:
        ValueError: If the file is no Python, or lacks one of the texts.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        message = f"{path}: expected the official viescore/vie_prompts.py: {error}"
        raise ValueError(message) from None
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    missing = sorted({part for parts in PROMPT_PARTS.values() for part in parts} - set(texts))
    if missing:
        message = f"{path}: expected the official viescore/vie_prompts.py, but texts {missing} are missing"
        raise ValueError(message)
    return {name: "\n".join(str(texts[part]) for part in parts) for name, parts in PROMPT_PARTS.items()}
