"""GenEval's output folder, also of the shapes world: ``NNNNN/metadata.jsonl`` and ``NNNNN/samples/*.png``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import geneval
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_json, as_mapping, as_text, json_lines
from unipic2_evals.pictures import Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle

__all__ = ["GenEvalRun", "judge_detections"]

SAMPLES = 4
"""Images a prompt in the official protocol."""
QUIRKS = ("most confident boxes before colours", "double position margin")


class GenEvalRun:
    """A folder in the official layout.

    Args:
        folder: What the sampler wrote.
        options: ``data``: the suite's JSONL, against which prompts are checked; without it the prompts are those whose
            folders are there. ``samples``, ``threshold``, ``counting_threshold``: see `Options`.
    """

    name = "geneval"
    binary = True
    rules: JudgeId | None = None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data", "samples", "threshold", "counting_threshold")
        self.folder, self.data, self.samples = folder, options.data, options.samples or SAMPLES
        self.official = options.official
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        given = {"threshold": options.threshold, "counting_threshold": options.counting_threshold}
        self.thresholds = {name: value for name, value in given.items() if value is not None}
        self.settings: Mapping[str, Any] = {"samples": self.samples, **self.thresholds}

    def items(self) -> list[Item]:
        """Return ``samples`` images a prompt, or as many as there are if there are more."""
        found = {int(path.name): path for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal()}
        prompts = self._suite() if self.data else {index: _metadata(found[index]) for index in sorted(found)}
        if not prompts or set(found) - set(prompts):
            extra = sorted(path.name for index, path in found.items() if index not in prompts)[:3]
            message = f"{self.folder}: expected folders 00000, 00001, ... of the suite's prompts, " + (
                f"but {extra} are none" if extra else "found none"
            )
            raise ValueError(message)
        items = []
        for index, metadata in prompts.items():
            if index in found and _metadata(found[index]) != metadata:
                message = f"{found[index]}: metadata.jsonl is not line {index} (from 0) of {self.data}; another suite?"
                raise ValueError(message)
            items += self._prompt(index, metadata, found.get(index))
        return items

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Filter the detections and apply GenEval's rules."""
        name = f"detections of {item.key}"
        objects = as_mapping(as_field(answers[0], "objects", name), name)
        colors = as_mapping(as_field(answers[0], "colors", name), name)
        verdict = judge_detections(objects, colors, item.about, self.thresholds, self.official)
        return self._scored(item, verdict["correct"], verdict["reason"])

    def zero(self, item: Item) -> Scored:
        """Return a wrong image."""
        return self._scored(item, False, "")

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the tags, the fraction of correct images, and the mean of the tags."""
        tags = dict.fromkeys(item.group for item in items)
        return [
            *(Measure(tag, "correct", tag) for tag in tags),
            Measure("images", "correct"),
            Measure("overall", "correct", macro=True),
        ]

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return GenEval's summary."""
        summary = geneval.summary(list(records.values()))
        return {**summary["tasks"], "images": summary["correct_images"], "overall": summary["overall"]}

    def _suite(self) -> dict[int, Mapping[str, Any]]:
        assert self.data is not None
        return dict(enumerate(row for _, row in json_lines(self.data)))

    def _prompt(self, index: int, metadata: Mapping[str, Any], folder: Path | None) -> list[Item]:
        name = f"metadata of prompt {index}"
        tag, prompt = (as_text(as_field(metadata, key, name), f"{key} of {name}") for key in ("tag", "prompt"))
        samples = folder / "samples" if folder else None
        files = sorted(samples.iterdir()) if samples and samples.is_dir() else []
        images = [path for path in files if re.fullmatch(r"\d+\.png", path.name)]
        items = [
            Item(
                f"{index:05}/{int(image.stem)}",
                prompt,
                f"{index:05}",
                tag,
                (image,),
                (Request("detections", (Picture(image),)),),
                about=metadata,
            )
            for image in images
        ]
        names = {item.key for item in items}
        if len(names) < len(items):
            message = f"{samples}: two images have the same number, for example 0.png and 00000.png"
            raise ValueError(message)
        absent = [key for number in range(self.samples) if (key := f"{index:05}/{number}") not in names]
        absent = absent[: max(self.samples - len(items), 0)]
        reason = f"fewer than {self.samples} images in {index:05}/samples"
        return items + [Item(key, prompt, f"{index:05}", tag, (), (), reason, metadata) for key in absent]

    def _scored(self, item: Item, correct: bool, reason: str) -> Scored:
        record = {"tag": item.group, "metadata": item.cluster, "correct": correct}
        return Scored({"correct": float(correct)}, record, note=reason)


def judge_detections(
    objects: Mapping[str, Sequence[Sequence[float]]],
    colors: Mapping[str, Sequence[str]],
    metadata: Mapping[str, Any],
    thresholds: Mapping[str, float] | None = None,
    official: bool = True,
) -> geneval.Verdict:
    """Return GenEval's verdict on everything that a detector saw in one image.

    Args:
        objects: All detections ``[x1, y1, x2, y2, score]`` of each class.
        colors: The colour of each of them, in the same order.
        metadata: The prompt's line of the suite.
        thresholds: Options of `unipic2_evals.geneval.filter_detections`; None = GenEval's.
        official: Keep the quirks of the official code.
    """
    kept = geneval.filter_detections(objects, metadata["tag"], thresholds)
    seen = {label: geneval.colors_of(boxes, objects[label], colors.get(label, [])) for label, boxes in kept.items()}
    return geneval.evaluate(kept, seen, metadata, official=official)


def _metadata(folder: Path) -> Mapping[str, Any]:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        message = f"{path}: missing; every prompt's folder holds its line of the suite"
        raise ValueError(message)
    return as_mapping(as_json(path.read_text(encoding="utf-8"), str(path)), str(path))
