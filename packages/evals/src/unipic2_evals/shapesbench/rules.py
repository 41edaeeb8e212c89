"""From a picture or a reply, and what a detector sees, to the values of one item of ShapesBench.

Text-to-image goes by the rules of `unipic2_evals.geneval`, questions by those of `unipic2_evals.mmbench`, edits by
`unipic2_evals.shapesbench.editing`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unipic2_evals import geneval, mmbench
from unipic2_evals.checks import as_field, as_mapping, as_rows, as_text
from unipic2_evals.pictures import Picture, Pixels
from unipic2_evals.protocols import Detected
from unipic2_evals.shapesbench.editing import EditScore, Truth, score_edit
from unipic2_evals.shapesbench.layout import LETTERS, SuiteItem, output_path, rotations
from unipic2_evals.shapesbench.scenes import grid_of, read_scene, see

__all__ = ["THRESHOLDS", "Rules", "read_detections", "read_truth", "right_letters"]

THRESHOLDS = {"threshold": 0.5, "counting_threshold": 0.7}
"""GenEval's, for the confidences of detectors of the shapes world."""


class Rules(NamedTuple):
    """How items are scored."""

    thresholds: Mapping[str, float] = THRESHOLDS
    """``threshold`` and ``counting_threshold`` of `unipic2_evals.geneval.filter_detections`."""
    official: bool = True
    """Whether quirks of GenEval's and MMBench's code are kept."""

    def generated(self, item: SuiteItem, pixels: Pixels, detected: Detected) -> tuple[dict[str, float], str]:
        """Score a picture of a prompt.

        Returns:
            ``correct`` by GenEval's rules and ``exact`` (nothing else is there); why it is not correct.
        """
        shapes = as_mapping(as_field(item.meta, "shapes", item.key), "shapes")
        metadata = as_mapping(as_field(shapes, "metadata", item.key), "metadata")
        kept = geneval.filter_detections(detected.objects, metadata["tag"], self.thresholds)
        colors = {
            name: geneval.colors_of(boxes, detected.objects[name], detected.colors.get(name, []))
            for name, boxes in kept.items()
        }
        verdict = geneval.evaluate(kept, colors, metadata, official=self.official)
        seen = see(pixels, detected, grid_of(shapes))
        wanted = sorted(clause["class"] for clause in metadata["include"] for _ in range(clause["count"]))
        exact = verdict["correct"] and not seen.unclear and sorted(thing.name for thing in seen.things) == wanted
        return {"correct": float(verdict["correct"]), "exact": float(exact)}, verdict["reason"]

    def edited(self, pixels: Pixels, detected: Detected, truth: Truth) -> EditScore:
        """Score an edited picture of the source's size."""
        return score_edit(pixels, see(pixels, detected, truth.after.grid), truth)

    def answered(self, item: SuiteItem, replies: Sequence[Any]) -> dict[str, float]:
        """Score the replies to a question's rotations: ``circular`` and ``vanilla``."""
        rows = [
            {
                **dict(zip(LETTERS, options, strict=True)),
                "index": turn * mmbench.ROTATION,
                "GT": letter,
                "prediction": reply,
            }
            for turn, (options, letter, reply) in enumerate(
                zip(rotations(item), right_letters(item), as_rows(replies, f"replies of {item.key}", 4), strict=True)
            )
        ]
        circular, vanilla = mmbench.circular_group(rows, self.official), mmbench.vanilla_group(rows, self.official)
        return {"circular": float(circular), "vanilla": float(vanilla)}


def read_truth(folder: Path, item: SuiteItem) -> Truth:
    """Return what an edit should do.

    Raises:
        ValueError: If a picture can not be read, or a scene is malformed.
    """
    paths = output_path(item.kind, item.key)
    shapes = as_mapping(as_field(item.meta, "shapes", item.key), "shapes")
    source, target = (Picture(folder / name).pixels() for name in (paths["source"], paths["target"]))
    return Truth(source, target, read_scene(shapes, "scene", source), read_scene(shapes, "target_scene", target))


def read_detections(answer: object, name: str) -> Detected:
    """Return what a detector has said, from an answers file."""
    return Detected(*(as_mapping(as_field(answer, field, name), f"{field} of {name}") for field in Detected._fields))


def right_letters(item: SuiteItem) -> list[str]:
    """Return the letter of the right option in each rotation."""
    answer = as_text(as_field(item.meta, "answer", item.key), f"answer of {item.key}")
    letters = []
    for options in rotations(item):
        if answer not in options:
            message = f"answer of {item.key}: {answer!r} is none of the options {list(options)}"
            raise ValueError(message)
        letters.append(LETTERS[list(options).index(answer)])
    return letters
