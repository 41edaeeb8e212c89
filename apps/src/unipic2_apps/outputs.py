"""Where pictures go, which are there already, and how they are written: whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unipic2_apps import record
from unipic2_apps.errors import UsageError
from unipic2_apps.metadata import Kind, png_info
from unipic2_apps.tasks import Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Entry", "plan", "save", "sheet_path", "write"]

SLUG_BYTES = 60


@dataclass(frozen=True)
class Entry:
    """A task and the file of its picture."""

    task: Task
    path: Path
    done: bool
    """The same picture is there already."""


def plan(tasks: Sequence[Task], out: str, model: Mapping[str, Any], *, overwrite: bool) -> list[Entry]:
    """Decide on files. A task that stands there twice is one entry.

    Args:
        tasks: What to make.
        out: Folder, or a name that ends in .png.
        model: Facts of the model.
        overwrite: Make again what is there.

    Raises:
        UsageError: If a file is there and is not the same picture, or two pictures want the same name.
    """
    paths = _paths(tasks, out, model)
    entries: dict[Path, Entry] = {}
    for task, path in zip(tasks, paths, strict=True):
        if path in entries:
            if record.identity(entries[path].task, model) == record.identity(task, model):
                continue
            msg = f"two different pictures are to be called {path.name}: give them different names."
            raise UsageError(msg)
        done = not overwrite and path.exists() and _check_same(path, task, model)
        entries[path] = Entry(task, path, done)
    return list(entries.values())


def save(picture: Image.Image, facts: Mapping[str, Any], path: Path, *, ai_label: bool) -> None:
    """Write a picture and the record beside it.

    Raises:
        UsageError: If it can't be written.
    """
    kind: Kind = "generate" if facts["picture"]["image"] is None else "edit"
    info = png_info(kind, record.public(facts), label=ai_label)
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    # The record is first: a picture with its record is done, whenever this is interrupted.
    path.unlink(missing_ok=True)
    write(record.sidecar(path), text.encode())
    write(path, partial(picture.save, format="PNG", pnginfo=info))


def write(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> None:
    """Write a file below another name and give it its own when it is whole.

    Args:
        path: The file.
        content: What is in it, or what writes that.

    Raises:
        UsageError: If it can't be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
            unfinished.replace(path)
        finally:  # also on Ctrl-C
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        msg = f"can't write {path} ({error})."
        raise UsageError(msg) from error


def sheet_path(out: str) -> Path:
    """Return where the contact sheet goes: beside a folder, so that it is not one of its pictures."""
    path = Path(out).expanduser()
    if path.suffix.lower() == ".png":
        return path.with_stem(f"{path.stem}_sheet")
    folder = path if path.name not in ("", "..") else path.resolve()
    return folder.with_name(f"{folder.name}_sheet.png")


def _paths(tasks: Sequence[Task], out: str, model: Mapping[str, Any]) -> list[Path]:
    path = Path(out).expanduser()
    if path.suffix.lower() == ".png":
        if path.is_dir():
            msg = f"{out} is a folder, but its name ends in .png: name a file in it, or another folder."
            raise UsageError(msg)
        if len(tasks) == 1:
            return [path]
        return [path.with_stem(f"{path.stem}_{index}") for index in range(len(tasks))]
    if path.is_file() or path.suffix.lower() in {".jpg", ".jpeg", ".webp"}:
        msg = f"--out is {out}, expected a folder or a name that ends in .png (parameters are kept in PNG files)."
        raise UsageError(msg)
    return [path / f"{task.name.removesuffix('.png') or _name(task, model)}.png" for task in tasks]


def _name(task: Task, model: Mapping[str, Any]) -> str:
    """Return a name that says what it is to a person; the hash tells it from the same with other parameters."""
    image = [] if task.image is None else [_cut(Path(task.image).stem)]
    slug = _cut(re.sub(r"[^\w]+", "-", task.prompt.lower()).strip("-_"))
    return "_".join([*image, slug or "picture", str(task.seed), record.identity_hash(task, model)])


def _cut(name: str) -> str:
    # File systems count bytes, and the name of an edit of an edit would grow and grow.
    return name.encode()[:SLUG_BYTES].decode(errors="ignore").strip("-_ ")


def _check_same(path: Path, task: Task, model: Mapping[str, Any]) -> bool:
    beside = record.sidecar(path)
    found = record.read(beside) if beside.is_file() else None
    if found is None:
        msg = f"{path} is there already and has no record beside it: use --overwrite, or another --out."
        raise UsageError(msg)
    before = record.identity(Task.from_facts(found["picture"]), found["model"])
    after = record.identity(task, model)
    changed = [key for key in after if before.get(key) != after[key]]
    if changed:
        msg = f"{path} is there already, made with another {', '.join(changed)}: use --overwrite, or another --out."
        raise UsageError(msg)
    return True
