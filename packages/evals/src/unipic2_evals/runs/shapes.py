"""ShapesBench's folder: text-to-image, edits and questions of the shapes world; see ``unipic2_evals.shapesbench``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import geneval, imgedit
from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_json, as_rows, as_text
from unipic2_evals.pictures import Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle
from unipic2_evals.shapesbench.editing import EditScore
from unipic2_evals.shapesbench.layout import LETTERS, SAMPLES, SuiteItem, output_path, read_suite
from unipic2_evals.shapesbench.measures import EDIT_VALUES, KIND_NAMES, MAIN, held_out_name, measures_of
from unipic2_evals.shapesbench.rules import THRESHOLDS, Rules, read_detections, read_truth
from unipic2_evals.shapesbench.sanity import sanity_items, score_sanity

__all__ = ["ShapesRun"]

QUIRKS = ("most confident boxes before colours", "double position margin", "option letters as in MMBench's code")
ZERO = {"t2i": ("correct", "exact"), "edit": EDIT_VALUES, "qa": ("circular", "vanilla")}


class ShapesRun:
    """A suite with what a model has made of it. A kind of which the model has made nothing at all is left out.

    Args:
        folder: What the sampler wrote.
        options: ``samples`` (images a prompt), ``threshold``, ``counting_threshold``: see `Options`.
    """

    name = "shapes"
    binary = False
    rules: JudgeId | None = None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "samples", "threshold", "counting_threshold")
        self.folder, self.official = folder, options.official
        given = {name: getattr(options, name) for name in THRESHOLDS}
        thresholds = THRESHOLDS | {name: value for name, value in given.items() if value is not None}
        self.how = Rules(thresholds, options.official)
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        self.samples = SAMPLES | {"t2i": options.samples or SAMPLES["t2i"]}
        suite = read_suite(folder)
        made = {item.kind for item in suite if self._files(item)}
        self.suite = [item for item in suite if item.kind in made]
        kinds = ", ".join(name for kind, name in KIND_NAMES.items() if kind in made)
        self.settings: Mapping[str, Any] = {"scored": kinds, "samples": self.samples["t2i"], **thresholds}

    def items(self) -> list[Item]:
        """Return the model's pictures and replies in the order of the suite, then the items of the sanity rows."""
        if not self.suite:
            message = f"{self.folder}: nothing was made of the suite; expected for example t2i/KEY/00000.png"
            raise ValueError(message)
        return [item for one in self.suite for item in self._items(one)] + sanity_items(self.folder, self.suite)

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Apply the rules of the item's kind."""
        one: SuiteItem = item.about["suite"]
        if item.about["kind"] == "sanity":
            return score_sanity(self.how, self.folder, item, answers)
        if one.kind == "qa":
            return _scored(item, self.how.answered(one, item.about["replies"]))
        pixels = item.requests[0].pictures[0].pixels()
        detected = read_detections(answers[0], f"detections of {item.key}")
        if one.kind == "t2i":
            return _scored(item, *self.how.generated(one, pixels, detected))
        return _scored(item, *_edit_values(self.how.edited(pixels, detected, read_truth(self.folder, one))))

    def zero(self, item: Item) -> Scored:
        """Return what a missing picture or reply counts: a wrong one, and 0 for an edit, which no picture gets."""
        if item.about["kind"] == "sanity":
            return Scored({})
        return _scored(item, dict.fromkeys(ZERO[item.about["kind"]], 0.0))

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the sanity rows; categories, held-out axes and overall scores of each kind."""
        return measures_of(items)

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return the means by GenEval's summary, and by ImgEdit's rules without its rounding."""
        generated = [record for kind, record in records.values() if kind == "t2i"]
        edited = {key: record for key, (kind, record) in records.items() if kind == "edit"}
        values: dict[str, float] = {}
        if generated:
            summary = geneval.summary(generated)
            values |= {f"t2i {tag}": share for tag, share in summary["tasks"].items()}
            values["t2i overall"] = summary["overall"]
        if edited:
            scores = {key: record["score"] for key, record in edited.items()}
            by_type = imgedit.per_type_official(scores, edited, official=False)
            values |= {f"edit {edit_type}": score for edit_type, score in by_type.items()}
            values["edit overall"] = imgedit.overalls(scores, edited, official=False)["macro"]
        return values

    def _files(self, one: SuiteItem) -> list[Path]:
        """Return what the model has made of an item."""
        if one.kind == "qa":
            paths = [output_path(one.kind, one.key)["replies"]]
        else:
            paths = [output_path(one.kind, one.key, number)["image"] for number in range(self.samples[one.kind])]
        return [path for name in paths if (path := self.folder / name).is_file()]

    def _items(self, one: SuiteItem) -> list[Item]:
        about = {"kind": one.kind, "suite": one}
        group = as_text(as_field(one.meta, "task", one.key), f"task of {one.key}")
        paths = [output_path(one.kind, one.key, number) for number in range(self.samples.get(one.kind, 1))]
        source = self.folder / paths[0]["source"]
        if one.kind == "qa":
            path = self.folder / paths[0]["replies"]
            if not path.is_file():
                return [Item(one.key, one.text, one.key, group, (), (), f"no {paths[0]['replies']}", about)]
            replies = as_rows(as_json(path.read_text(encoding="utf-8"), str(path)), str(path), len(LETTERS))
            return [Item(one.key, one.text, one.key, group, (source,), (), about=about | {"replies": replies})]
        items = []
        for number, names in enumerate(paths):
            path = self.folder / names["image"]
            key, cluster = f"{one.key}/{number}", one.text if one.kind == "t2i" else one.key
            if not path.is_file():
                items.append(Item(key, one.text, cluster, group, (), (), f"no {names['image']}", about))
                continue
            like = source if one.kind == "edit" else None
            request = Request("detections", (Picture(path, like=like),))
            images = (source, path) if one.kind == "edit" else (path,)
            items.append(Item(key, one.text, cluster, group, images, (request,), about=about))
        return items


def _scored(item: Item, values: Mapping[str, float], note: str = "") -> Scored:
    """Return values; under a name of its own where the item is held out for an axis."""
    kind, axis = item.about["kind"], item.about["suite"].meta["shapes"].get("axis")
    if axis:
        return Scored({held_out_name(kind, axis): values[MAIN[kind]]}, ("held out", None), note=note)
    records = {
        "t2i": {"tag": item.group, "metadata": item.cluster, "correct": bool(values.get("correct"))},
        "edit": {"edit_type": item.group, "score": values.get("score")},
    }
    return Scored(dict(values), (kind, records.get(kind)), note=note)


def _edit_values(found: EditScore) -> tuple[dict[str, float], str]:
    values = {"score": found.item, "exact edit": float(found.compliance == 5), "copied": float(found.no_op)}
    values |= {name: float(getattr(found, name)) for name in ("compliance", "preservation", "rendering")}
    values |= dict(zip(("SC", "PQ", "O"), found.gedit, strict=True))
    note = f"compliance {found.compliance}, preservation {found.preservation}, rendering {found.rendering}"
    return values, note
