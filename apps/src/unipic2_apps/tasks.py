"""What to make: from words, prompt files and folders of images to tasks, one a picture."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError
from unipic2_apps.options import PictureOptions
from unipic2_dit.command_line import open_image, parse_size

if TYPE_CHECKING:
    from unipic2_unified.requests import Request

__all__ = ["Task", "edits", "file_hash", "find_images", "open_image", "prompts", "read_file", "to_request"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# What a line of a .jsonl file may hold, beside the prompt.
KEYS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "image": (str,),
    "negative_prompt": (str,),
    "size": (str, int),
    "steps": (int,),
    "guidance": (int, float),
    "seed": (int,),
    "name": (str,),
}
# What is written down of a task.
FACTS: dict[str, Any] = {
    "prompt": str,
    "image": str | None,
    "image_sha256": str | None,
    "negative_prompt": str,
    "size": str | None,
    "steps": int,
    "guidance": float | int,
    "seed": int,
    "original_size": bool,
}


@dataclass(frozen=True)
class Task:
    """One picture to make, as a person asked for it."""

    prompt: str
    """What to make, or how to edit."""
    image: str | None = None
    """File of the picture to edit."""
    image_sha256: str | None = None
    """Hash of that file, so that it is told from another of its name."""
    negative_prompt: str = ""
    """What to lead away from."""
    size: str | None = None
    """EDGE or WIDTHxHEIGHT."""
    steps: int = 50
    """Denoising steps."""
    guidance: float = 3.5
    """Scale of classifier-free guidance."""
    seed: int = 0
    """Pins the noise."""
    original_size: bool = False
    """Resize an edit to exactly the size of its picture."""
    name: str = field(default="", compare=False)
    """What the file is called, if someone said so."""

    def facts(self) -> dict[str, Any]:
        """Return the task as it is written beside its picture."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Task:
        """Return the task that was written.

        Raises:
            UsageError: If these are not the facts of one.
        """
        wrong = [key for key, value in facts.items() if not isinstance(value, FACTS.get(key, ()))]
        if wrong or FACTS.keys() - facts.keys():
            msg = f"the parameters {facts} are not those of a picture of this version of unipic2."
            raise UsageError(msg)
        return cls(**facts)


def prompts(words: Sequence[str], file: Path | None, options: PictureOptions) -> list[Task]:
    """Return the tasks of prompts from the command line and a file.

    Raises:
        UsageError: If there are none, or the file can't be read.
    """
    rows = [{"prompt": word} for word in words]
    if file is not None:
        rows += list(read_file(file))
    if not rows:
        msg = 'there is no prompt: write it in quotes ("a red circle"), or name a file with --prompts.'
        raise UsageError(msg)
    if any("image" in row for row in rows):
        msg = f"{file} names images to edit: use `unipic2 edit --prompts {file}`."
        raise UsageError(msg)
    return [task for row in rows for task in _tasks(row, options)]


def edits(
    image: str, instructions: Sequence[str], file: Path | None, options: PictureOptions, *, original_size: bool
) -> list[Task]:
    """Return the tasks of each instruction for each image, and those of a file.

    Raises:
        UsageError: If there are none, or an image or the file can't be read.
    """
    if image and not instructions and file is None:
        msg = f'say how to edit {image}, in quotes: unipic2 edit {image} "make the circle green".'
        raise UsageError(msg)
    rows: list[dict[str, Any]] = []
    if image and instructions:
        rows = [{"prompt": text, "image": str(path.absolute())} for path in find_images(image) for text in instructions]
    if file is not None:
        of_file = list(read_file(file))
        if any("image" not in row for row in of_file) and not image:
            msg = f"not every line of {file} names an image: add them, or name one image or folder for all."
            raise UsageError(msg)
        shared = [str(path.absolute()) for path in find_images(image)] if image else []
        rows += [{"image": path, **row} for row in of_file for path in ([row["image"]] if "image" in row else shared)]
    if not rows:
        msg = 'name an image and an instruction (unipic2 edit IMAGE "make it red"), or a file with --prompts.'
        raise UsageError(msg)
    hashes = {path: file_hash(path) for path in dict.fromkeys(row["image"] for row in rows)}
    return [
        replace(task, image_sha256=hashes[str(task.image)], original_size=original_size)
        for row in rows
        for task in _tasks(row, options)
    ]


def read_file(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a prompt file: the lines of a .txt file, or the objects of a .jsonl file.

    Raises:
        UsageError: If it can't be read; the message names the line.
    """
    if file.suffix not in (".txt", ".jsonl"):
        msg = f"{file} is neither .txt (a prompt a line) nor .jsonl (an object a line, with the key prompt)."
        raise UsageError(msg)
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file} can't be read as UTF-8 text ({error})."
        raise UsageError(msg) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield {"prompt": line.strip()} if file.suffix == ".txt" else _row(line, file, number)


def find_images(path: str) -> list[Path]:
    """Return the image, or the images of a folder, sorted by name.

    Raises:
        UsageError: If there is none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        msg = f"there is no image {path}."
        raise UsageError(msg)
    found = sorted(each for each in place.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not found:
        msg = f"the folder {path} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        raise UsageError(msg)
    return found


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file.

    Raises:
        UsageError: If it can't be read.
    """
    try:
        with Path(path).expanduser().open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        msg = f"there is no image {path} ({error.strerror})."
        raise UsageError(msg) from error


def to_request(task: Task) -> Request:
    """Return what the model is asked for.

    Raises:
        UsageError: If the size can't be understood or the image can't be read.
        RequestError: If a number is out of its range.
    """
    from unipic2_unified import Request

    return Request(
        prompt=task.prompt,
        image=None if task.image is None else open_image(task.image),
        negative_prompt=task.negative_prompt,
        size=parse_size(task.size),
        steps=task.steps,
        guidance=task.guidance,
        seed=task.seed,
    )


def _tasks(row: dict[str, Any], options: PictureOptions) -> Iterator[Task]:
    """Yield the pictures of a row; what it does not say is as the options say."""
    if not row["prompt"].strip():
        msg = "the prompt is empty: say what the picture should show, or how to edit it."
        raise UsageError(msg)
    if not row["prompt"].isprintable() and re.search("[\ud800-\udfff]", row["prompt"]):
        msg = f"the prompt {row['prompt']!r} is not valid UTF-8."
        raise UsageError(msg)
    size = row.get("size", options.size)
    task = Task(
        prompt=row["prompt"],
        image=row.get("image"),
        negative_prompt=row.get("negative_prompt", options.negative_prompt),
        size=None if size is None else str(size),
        steps=row.get("steps", options.steps),
        guidance=float(row.get("guidance", options.guidance)),
        name=row.get("name", ""),
    )
    parse_size(task.size)
    seed = row.get("seed", options.seed)
    for index in range(options.num_images):
        numbered = f"{task.name}_{index}" if task.name and options.num_images > 1 else task.name
        yield replace(task, seed=seed + index, name=numbered)


def _row(line: str, file: Path, number: int) -> dict[str, Any]:
    where = f"{file}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        msg = f"{where} is not JSON ({error})."
        raise UsageError(msg) from error
    if not isinstance(row, dict) or "prompt" not in row:
        msg = f'{where} is not an object with the key prompt, such as {{"prompt": "a red circle", "seed": 3}}.'
        raise UsageError(msg)
    for key, value in row.items():
        if key not in KEYS:
            msg = f"{where} has the unknown key {key!r}; known: {', '.join(KEYS)}."
            raise UsageError(msg)
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            msg = f"{where}: {key} is {value!r}, expected {' or '.join(kind.__name__ for kind in KEYS[key])}."
            raise UsageError(msg)
    if "name" in row and (not row["name"] or Path(row["name"]).name != row["name"]):
        msg = f"{where}: name is {row['name']!r}, expected the name of a file, without folders."
        raise UsageError(msg)
    if "image" in row:  # as seen from the file
        row["image"] = str((file.expanduser().parent / Path(row["image"]).expanduser()).absolute())
    return row
