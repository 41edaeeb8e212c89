"""The output layout of GenEval 2 (facebookresearch/GenEval2, arXiv 2512.16853).

The benchmark is a file ``geneval2_data.jsonl``, a prompt a line; it may not be redistributed (CC BY-NC) and is read
from where the user keeps it. The official scripts take one image a prompt from anywhere and find them through a JSON
file that maps prompts to paths (``--image_filepath_data``), so a prompt that occurs twice could not be told apart. They
write and read ``score_lists.json``: for each prompt, in the order of the benchmark, one score for each of its
questions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unipic2_evals.checks import as_field, as_json, as_mapping, as_number, as_rows, as_text, json_lines

__all__ = [
    "IMAGE_PATHS",
    "Prompt",
    "output_path",
    "read_image_paths",
    "read_prompts",
    "read_score_lists",
    "write_image_paths",
    "write_score_lists",
]

IMAGE_PATHS = "image_paths.json"
"""Name of the file that maps prompts to images; the official scripts take any."""


class Prompt(NamedTuple):
    """One line of the benchmark."""

    prompt: str
    atom_count: int
    """Primitives in the prompt (objects, attributes, relations, counts)."""
    vqa_list: tuple[tuple[str, str], ...]
    """Questions with their right answers; may be more than ``atom_count``."""
    skills: tuple[str, ...]
    """What each question is about, for example "count"."""


def read_prompts(path: Path) -> list[Prompt]:
    """Read the benchmark.

    Args:
        path: ``geneval2_data.jsonl``.

    Returns:
        The prompts in order (800 in the published file).

    Raises:
        ValueError: If the file is empty, a line is malformed, or a prompt occurs twice.
    """
    prompts: dict[str, Prompt] = {}
    for name, row in json_lines(path):
        prompt = _prompt(row, name)
        if prompt.prompt in prompts:
            message = f"{name}: the prompt occurs twice: {prompt.prompt!r}"
            raise ValueError(message)
        prompts[prompt.prompt] = prompt
    if not prompts:
        message = f"{path}: expected one prompt a line, found none"
        raise ValueError(message)
    return list(prompts.values())


def output_path(index: int) -> str:
    """Return where the image of a prompt is kept below the image folder; the official scripts leave the name open.

    Args:
        index: Line of the benchmark, counted from 0.

    Returns:
        A relative path.
    """
    return f"images/{index:05}.png"


def write_image_paths(path: Path, images: Mapping[str, Path]) -> None:
    """Write the file by which the official scripts find the images.

    Args:
        path: The file, for example ``IMAGE_PATHS`` in the output folder.
        images: Image of each prompt. Paths are written whole, since the official scripts run elsewhere.
    """
    absolute = {prompt: str(image.resolve()) for prompt, image in images.items()}
    path.write_text(json.dumps(absolute, indent=2) + "\n", encoding="utf-8")


def read_image_paths(path: Path, prompts: Sequence[Prompt]) -> list[Path]:
    """Read where the images are.

    Args:
        path: What `write_image_paths`, or anybody else, has written. Relative paths start at the file's folder.
        prompts: The benchmark.

    Returns:
        The image of each prompt, in order. Nothing checks that it exists.

    Raises:
        ValueError: If the file is no mapping, or lacks a prompt.
    """
    paths = as_mapping(as_json(path.read_text(encoding="utf-8"), str(path)), str(path))
    missing = [prompt.prompt for prompt in prompts if prompt.prompt not in paths]
    if missing:
        message = f"{path}: {len(missing)} of {len(prompts)} prompts have no image, for example {missing[0]!r}"
        raise ValueError(message)
    return [path.parent / as_text(paths[prompt.prompt], f"{path}: {prompt.prompt!r}") for prompt in prompts]


def write_score_lists(path: Path, scores: Sequence[Sequence[float]], prompts: Sequence[Prompt]) -> None:
    """Write the scores as the official analysis reads them.

    Args:
        path: The file, for example ``score_lists.json``.
        scores: For each prompt one score in [0, 1] a question.
        prompts: The benchmark.

    Raises:
        ValueError: If the numbers of prompts or questions differ, or a score is out of range.
    """
    lists = _score_lists(scores, prompts, "scores")
    path.write_text(json.dumps(lists) + "\n", encoding="utf-8")


def read_score_lists(path: Path, prompts: Sequence[Prompt]) -> list[list[float]]:
    """Read scores that `write_score_lists` or the official script has written; errors as there."""
    return _score_lists(as_json(path.read_text(encoding="utf-8"), str(path)), prompts, str(path))


def _prompt(row: Mapping[str, Any], name: str) -> Prompt:
    questions = [
        tuple(as_text(text, f"vqa_list of {name}") for text in as_rows(pair, f"vqa_list of {name}", least=2))
        for pair in as_rows(as_field(row, "vqa_list", name), f"vqa_list of {name}")
    ]
    skills = tuple(
        as_text(skill, f"skills of {name}") for skill in as_rows(as_field(row, "skills", name), f"skills of {name}")
    )
    if len(skills) != len(questions) or any(len(pair) != 2 for pair in questions):
        message = f"{name}: expected pairs of question and answer, and a skill for each, got {len(questions)} entries "
        raise ValueError(message + f"and {len(skills)} skills")
    return Prompt(
        as_text(as_field(row, "prompt", name), f"prompt of {name}"),
        int(as_number(as_field(row, "atom_count", name), f"atom_count of {name}")),
        tuple((question, answer) for question, answer in questions),
        skills,
    )


def _score_lists(scores: Any, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
    if len(as_rows(scores, name)) != len(prompts):
        message = f"{name}: expected one list for each of {len(prompts)} prompts, got {len(scores)}"
        raise ValueError(message)
    lists = []
    for prompt, row in zip(prompts, scores, strict=True):
        values = [
            as_number(value, f"{name}: {prompt.prompt!r}") for value in as_rows(row, f"{name}: {prompt.prompt!r}")
        ]
        if len(values) != len(prompt.vqa_list) or not all(0 <= value <= 1 for value in values):
            message = f"{name}: {prompt.prompt!r}: expected {len(prompt.vqa_list)} scores from 0 to 1, got {values}"
            raise ValueError(message)
        lists.append(values)
    return lists
