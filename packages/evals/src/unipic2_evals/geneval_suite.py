"""GenEval's prompt suite, drawn again from its seed (djghosh13/geneval, ``prompts/create_prompts.py``).

Seed 43 with 100 prompts a task gives the official 553 lines byte for byte, so no file needs to be shipped. The order of
the random draws is part of that promise.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np

__all__ = [
    "COLORS",
    "OBJECT_NAMES",
    "RELATIONS",
    "TAGS",
    "SuiteSummary",
    "generate_suite",
    "make_plural",
    "prompt_suite",
    "with_article",
]

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
MAX_COUNT = 4
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
UNCOLORED = "person"
"""The class that no prompt gives a colour."""

# The 80 classes of COCO in COCO's order, as GenEval words them.
OBJECT_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# English plurals of last words that no rule gives; read by ``make_plural(..., official=False)`` only.
_PLURALS = {"person": "people", "mouse": "mice", "sheep": "sheep", "skis": "skis", "scissors": "scissors"}

Prompt = dict[str, Any]


class SuiteSummary(TypedDict):
    """What identifies a suite without printing it."""

    lines: int
    sha256: str
    """Of the whole JSONL file, one line a prompt."""
    tags: dict[str, int]
    first: Prompt
    last: Prompt
    line_180: Prompt | None
    """Counted from 0; a counting prompt of the official suite. None in a shorter suite."""


def generate_suite(
    seed: int = 43, n: int = 100, classnames: Sequence[str] | str = OBJECT_NAMES, official: bool = True
) -> SuiteSummary:
    """Draw the suite and describe it; `prompt_suite` returns its lines.

    Args:
        seed: Seed of the draw; 43 is the official suite's.
        n: Prompts a task before duplicates are dropped (single_object: one for each class, whatever ``n`` is).
        classnames: Class names in the order in which they are drawn. A text that begins with ``object_names.txt``
            stands for the official file of that name, `OBJECT_NAMES`.
        official: See `make_plural`.

    Returns:
        Counts, hash and three of the lines.
    """
    if isinstance(classnames, str):
        if not classnames.startswith("object_names.txt"):
            message = (
                f"classnames: expected a list of names, or 'object_names.txt' for the official ones: {classnames!r}"
            )
            raise ValueError(message)
        classnames = OBJECT_NAMES
    prompts = prompt_suite(seed, n, classnames, official)
    text = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    return {
        "lines": len(prompts),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tags": dict(Counter(prompt["tag"] for prompt in prompts)),
        "first": prompts[0],
        "last": prompts[-1],
        "line_180": prompts[180] if len(prompts) > 180 else None,
    }


def prompt_suite(
    seed: int = 43, n: int = 100, classnames: Sequence[str] = OBJECT_NAMES, official: bool = True
) -> list[Prompt]:
    """Draw the suite: metadata of every prompt, in the official order and without duplicates.

    Args:
        seed: Seed of the draw.
        n: Prompts a task before duplicates are dropped.
        classnames: At least three class names, "person" among them.
        official: See `make_plural`.

    Returns:
        One mapping a prompt: ``tag``, ``include``, ``exclude`` (counting only) and ``prompt``.

    Raises:
        ValueError: If the class names are too few or "person" is missing.
    """
    names = list(classnames)
    if len(names) < 3 or UNCOLORED not in names:
        message = f"classnames: expected three or more with {UNCOLORED!r} among them, got {names}"
        raise ValueError(message)
    rng = np.random.default_rng(seed)
    prompts = [_single_object(names[index]) for index in rng.choice(len(names), size=len(names), replace=False)]
    draws: tuple[Callable[[], Prompt], ...] = (
        lambda: _two_object(rng, names),
        lambda: _counting(rng, names, official),
        lambda: _colors(rng, names),
        lambda: _position(rng, names),
        lambda: _color_attr(rng, names),
    )
    for draw in draws:
        prompts.extend(draw() for _ in range(n))
    return list({json.dumps(prompt): prompt for prompt in prompts}.values())  # first places are kept


def with_article(name: str) -> str:
    """Return the name with "a" or "an", by its first letter."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def make_plural(name: str, official: bool = True) -> str:
    """Return the plural of a class name.

    Args:
        name: Class name; its last word is put into the plural.
        official: True appends "es" after an s and "s" otherwise ("benchs", "persons"), as every published GenEval
            prompt does. False gives English plurals.

    Returns:
        The plural.
    """
    if official:
        return f"{name}es" if name.endswith("s") else f"{name}s"
    *front, last = name.split(" ")
    if last in _PLURALS:
        plural = _PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        plural = f"{last}es"
    elif last.endswith("fe"):
        plural = f"{last[:-2]}ves"
    else:
        plural = f"{last}s"
    return " ".join([*front, plural])


def _single_object(name: str) -> Prompt:
    return {
        "tag": "single_object",
        "include": [{"class": name, "count": 1}],
        "prompt": f"a photo of {with_article(name)}",
    }


def _two_object(rng: np.random.Generator, names: Sequence[str]) -> Prompt:
    a, b = (names[index] for index in rng.choice(len(names), size=2, replace=False))
    return {
        "tag": "two_object",
        "include": [{"class": a, "count": 1}, {"class": b, "count": 1}],
        "prompt": f"a photo of {with_article(a)} and {with_article(b)}",
    }


def _counting(rng: np.random.Generator, names: Sequence[str], official: bool) -> Prompt:
    name = names[rng.choice(len(names))]
    count = int(rng.integers(2, MAX_COUNT, endpoint=True))
    return {
        "tag": "counting",
        "include": [{"class": name, "count": count}],
        "exclude": [{"class": name, "count": count + 1}],
        "prompt": f"a photo of {NUMBER_WORDS[count]} {make_plural(name, official)}",
    }


def _colors(rng: np.random.Generator, names: Sequence[str]) -> Prompt:
    name = _colorable(names, rng.choice(len(names) - 1))
    color = COLORS[rng.choice(len(COLORS))]
    return {
        "tag": "colors",
        "include": [{"class": name, "count": 1, "color": color}],
        "prompt": f"a photo of {with_article(color)} {name}",
    }


def _position(rng: np.random.Generator, names: Sequence[str]) -> Prompt:
    a, b = (names[index] for index in rng.choice(len(names), size=2, replace=False))
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    return {
        "tag": "position",
        "include": [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}],
        "prompt": f"a photo of {with_article(a)} {relation} {with_article(b)}",
    }


def _color_attr(rng: np.random.Generator, names: Sequence[str]) -> Prompt:
    a, b = (_colorable(names, index) for index in rng.choice(len(names) - 1, size=2, replace=False))
    color_a, color_b = (COLORS[index] for index in rng.choice(len(COLORS), size=2, replace=False))
    return {
        "tag": "color_attr",
        "include": [{"class": a, "count": 1, "color": color_a}, {"class": b, "count": 1, "color": color_b}],
        "prompt": f"a photo of {with_article(color_a)} {a} and {with_article(color_b)} {b}",
    }


def _colorable(names: Sequence[str], draw: int) -> str:
    """Return the ``draw``-th name after "person", going round, so that "person" itself is never drawn."""
    return names[(draw + 1 + names.index(UNCOLORED)) % len(names)]
