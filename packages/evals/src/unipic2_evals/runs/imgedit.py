"""ImgEdit-Bench's output folder: ``KEY.png``, flat."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import imgedit
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_json, as_mapping, as_text
from unipic2_evals.pictures import Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle

__all__ = ["ImgEditRun"]

PLACE = "<edit_prompt>"
"""Where the instruction goes in the judge's prompts."""
QUIRKS = ("strict score lines", "quality may exceed compliance", "unread replies left out", "rounded means")


class ImgEditRun:
    """A flat folder of edited images.

    Args:
        folder: What the sampler wrote.
        options: ``data``: the benchmark's JSON (``basic_edit.json``). ``sources``: folder of its source images.
            ``prompts``: the official JSON of judge's prompts by edit type.
    """

    name = "imgedit"
    binary = False
    rules: JudgeId | None = None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data", "sources", "prompts")
        if options.data is None or options.sources is None or options.prompts is None:
            message = "imgedit: expected --data (basic_edit.json), --sources (folder) and --prompts (JSON by edit type)"
            raise ValueError(message)
        self.folder, self.sources, self.official = folder, options.sources, options.official
        self.meta = _read(options.data)
        self.prompts = _read(options.prompts)
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        self.settings: Mapping[str, Any] = {}

    def items(self) -> list[Item]:
        """Return the edits in the order of the benchmark's file."""
        return [self._item(key, about) for key, about in self.meta.items()]

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Read the scores in the reply."""
        mean = imgedit.parse_and_average(answers[0], self.official)
        if mean is None:
            values = {"score, failures zero": 0.0}
            return Scored(values, failed=f"no scores in the reply about {item.key}: {str(answers[0])[:80]!r}")
        return self._scored(mean)

    def zero(self, item: Item) -> Scored:  # noqa: ARG002 - any item
        """Return a score of 0, which no judge gives."""
        return self._scored(0.0)

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the edit types and the three Overalls by name; macro is the one of the leaderboards."""
        types = dict.fromkeys(item.group for item in items)
        return [
            *(Measure(edit_type, "score", edit_type) for edit_type in types),
            Measure("sample_mean_failures_zero", "score, failures zero"),
            Measure("sample_mean", "score"),
            Measure("macro", "score", macro=True),
        ]

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return the edit types' means and two Overalls; the third needs what failed, and is never rounded."""
        by_type = imgedit.per_type_official(records, self.meta, self.official)
        found = imgedit.overalls(records, self.meta, self.official)
        return {**by_type, "macro": found["macro"], "sample_mean": found["sample_mean"]}

    def _item(self, key: str, about: Mapping[str, Any]) -> Item:
        name = f"metadata of {key!r}"
        source_name, prompt, edit_type = (
            as_text(as_field(about, field, name), f"{field} of {name}") for field in ("id", "prompt", "edit_type")
        )
        source, edited = self.sources / source_name, self.folder / imgedit.output_path(key)["edited"]
        if not source.is_file():
            message = f"{source}: the source image of {key!r} is missing; is --sources the benchmark's image folder?"
            raise ValueError(message)
        if not edited.is_file():
            return Item(key, prompt, key, edit_type, (), (), f"no {edited.name}", about)
        template = as_text(as_field(self.prompts, edit_type, "prompts"), f"prompt of {edit_type!r}")
        request = Request("reply", (Picture(source), Picture(edited)), template.replace(PLACE, prompt))
        return Item(key, prompt, key, edit_type, (source, edited), (request,), about=about)

    def _scored(self, mean: float) -> Scored:
        return Scored({"score": mean, "score, failures zero": mean}, mean)


def _read(path: Path) -> Mapping[str, Any]:
    return as_mapping(as_json(path.read_text(encoding="utf-8"), str(path)), str(path))
