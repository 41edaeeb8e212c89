"""ShapesBench's folder: a suite of items with their ground truth, and what a model has made of them.

::

    suite.jsonl                 one item a line: its sample's JSON object with ``key`` and ``kind``
    t2i/KEY/target.png          a right picture
    t2i/KEY/00000.png, ...      what the model has made of the prompt, `SAMPLES` times
    edit/KEY/source.png         the picture to edit
    edit/KEY/target.png         the right result
    edit/KEY/00000.png          what the model has made of it
    qa/KEY/source.png           the picture in question
    qa/KEY/replies.json         what the model says to each of `questions`, a list of texts
    KIND/KEY/vae.png            optional: the target through the model's autoencoder (`write_reconstructions`)

``unipic2-data shapesbench`` writes the suite; a sampler copies it (`copy_suite`) and adds the rest. Detections are
asked of the pictures by content, so a copied suite costs a detector nothing twice.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from unipic2_evals.checks import as_field, as_name, as_rows, as_text, json_lines
from unipic2_evals.pictures import Picture, Pixels

__all__ = [
    "KINDS",
    "SAMPLES",
    "SUITE",
    "OutputPath",
    "SuiteItem",
    "copy_suite",
    "output_path",
    "questions",
    "read_suite",
    "write_reconstructions",
    "write_replies",
]

KINDS = ("t2i", "edit", "qa")
SAMPLES = {"t2i": 4, "edit": 1}
"""Pictures that a model makes of each item; to questions it replies."""
SUITE = "suite.jsonl"
LETTERS = "ABCD"
ASK = "Please select the correct answer from the options above. \n"
"""The last line of a question, as MMBench has it."""


class OutputPath(TypedDict):
    """Where the files of one item lie, below the folder. Which of them there are depends on the item's kind."""

    image: str
    source: str
    target: str
    vae: str
    replies: str


class SuiteItem(NamedTuple):
    """One item of a suite."""

    key: str
    kind: str
    """One of `KINDS`."""
    text: str
    """The prompt, the instruction or the question."""
    meta: Mapping[str, Any]
    """The sample's JSON object; its ``shapes`` hold the ground truth, ``width`` and ``height`` the size in pixels."""


def output_path(kind: str, key: str, number: int = 0) -> OutputPath:
    """Return where the files of one item lie.

    Args:
        kind: One of `KINDS`.
        key: The item's key in the suite.
        number: Number of the image that a model has made of it, counted from 0.

    Returns:
        Paths relative to the folder.

    Raises:
        ValueError: If there is no such kind, or the key can not be the name of a folder.
    """
    if kind not in KINDS:
        message = f"kind of {key!r}: expected one of {KINDS}, got {kind!r}"
        raise ValueError(message)
    folder = f"{kind}/{as_name(key, 'key')}"
    return {
        "image": f"{folder}/{number:05}.png",
        "source": f"{folder}/source.png",
        "target": f"{folder}/target.png",
        "vae": f"{folder}/vae.png",
        "replies": f"{folder}/replies.json",
    }


def read_suite(folder: Path) -> list[SuiteItem]:
    """Return the items of a suite, in its order.

    Args:
        folder: The suite, or a copy of it to which a model's pictures were added.

    Raises:
        ValueError: If there is no suite, or an item is malformed.
    """
    path = folder / SUITE
    if not path.is_file():
        message = f"{path}: missing; a sampler copies the suite that `unipic2-data shapesbench` writes"
        raise ValueError(message)
    items: dict[str, SuiteItem] = {}
    for name, row in json_lines(path):
        key, kind = (as_text(as_field(row, field, name), f"{field} of {name}") for field in ("key", "kind"))
        output_path(kind, key)
        field = {"edit": "instruction", "qa": "question"}.get(kind, "captions")
        value = as_field(row, field, name)
        text = as_text(as_rows(value, f"{field} of {name}")[0] if isinstance(value, list) else value, name)
        if key in items:
            message = f"{name}: key {key!r} occurs twice"
            raise ValueError(message)
        items[key] = SuiteItem(key, kind, text, row)
    if not items:
        message = f"{path}: no items"
        raise ValueError(message)
    return list(items.values())


def copy_suite(suite: Path, folder: Path) -> list[SuiteItem]:
    """Copy a suite to where a model's pictures will be, and return its items; a copy that is there stays.

    Args:
        suite: What ``unipic2-data shapesbench`` wrote.
        folder: Made if need be; nothing else in it is touched.

    Raises:
        ValueError: If there is no suite, or the folder holds another one.
    """
    items = read_suite(suite)
    if (folder / SUITE).is_file():
        if (folder / SUITE).read_bytes() != (suite / SUITE).read_bytes():
            message = f"{folder / SUITE} is not that of {suite}; choose another folder for another suite"
            raise ValueError(message)
        return items
    for item in items:
        paths = output_path(item.kind, item.key)
        for name in (paths["source"], paths["target"]):
            if (suite / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(suite / name, folder / name)
    # The list comes last: it says that all of the suite is there.
    partial = folder / f".{SUITE}.partial"
    shutil.copyfile(suite / SUITE, partial)
    partial.replace(folder / SUITE)
    return items


def questions(item: SuiteItem) -> list[str]:
    """Return what a model is asked about ``source.png`` of a question: four times, with the options turned round.

    The words are those of MMBench; `replies.json` holds the replies in this order.
    """
    return [
        f"Question: {item.text}\nOptions:\n"
        + "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=True))
        + ASK
        for options in rotations(item)
    ]


def rotations(item: SuiteItem) -> list[Sequence[str]]:
    """Return the options of a question in all four rotations."""
    name = f"options of {item.key}"
    options = [as_text(option, name) for option in as_rows(as_field(item.meta, "options", name), name, len(LETTERS))]
    return [options[turn:] + options[:turn] for turn in range(len(options))]


def write_replies(folder: Path, item: SuiteItem, replies: Sequence[str]) -> Path:
    """Write what a model says to each of `questions`, and return the file."""
    path = folder / output_path(item.kind, item.key)["replies"]
    path.write_text(json.dumps(list(replies)) + "\n", encoding="utf-8")
    return path


def write_reconstructions(
    folder: Path, through: Callable[[Sequence[Pixels]], Sequence[Pixels]], batch: int = 64
) -> int:
    """Write each target as it comes out of a model's autoencoder: the ceiling of what the model can draw.

    Args:
        folder: The suite, or a copy of it.
        through: Encodes and decodes pictures, RGB uint8 (H, W, 3).
        batch: Pictures at a time.

    Returns:
        Number of pictures written; those that are there stay.
    """
    from PIL import Image

    wanted = []
    for item in read_suite(folder):
        paths = output_path(item.kind, item.key)
        if item.kind != "qa" and not (folder / paths["vae"]).is_file():
            wanted.append((folder / paths["target"], folder / paths["vae"]))
    for start in range(0, len(wanted), batch):
        part = wanted[start : start + batch]
        for (_, path), pixels in zip(part, through([Picture(target).pixels() for target, _ in part]), strict=True):
            Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return len(wanted)
