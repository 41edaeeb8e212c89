"""Rows with a conversation, as UniWorld-V1 and GPT-Image-Edit have them.

``{"image": ["in.png", "out.png"], "conversations": [{"from": "human", "value": "<image> Make it snow"}, {"from": "gpt",
"value": "<image>"}]}``: if the answer is a picture, the last picture is the target and the others are references; if
it is a text, the row is a question about the pictures.

A list of such files is a text file with lines ``folder of pictures,rows.json,flag``; the flag (region weighting in
UniWorld's training) is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_data.adapters.fields import Finder, pictures_of
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Conversations", "read_list"]

_PICTURE = "<image>"
_LIST_FIELDS = (2, 3)


class Conversations:
    """Maps rows with a conversation to records."""

    columns = ("image", "conversations")

    def applies(self, row: dict[str, Any]) -> bool:
        """Whether the row has a conversation."""
        return "conversations" in row

    def records(self, name: str, row: dict[str, Any], finder: Finder) -> Iterator[Record | Skipped]:
        """Yield the record of a row."""
        try:
            question, answer = _turns(row["conversations"])
            pictures = pictures_of(row, "image", finder)
        except DataError as error:
            yield Skipped(name, str(error))
            return
        images = row.get("image")
        last = images[-1] if isinstance(images, list) and images else images
        made = _PICTURE in answer or not answer
        text = question.replace(_PICTURE, "").strip()
        if not pictures:
            yield Skipped(name, "no picture in field 'image'")
        elif not text:
            yield Skipped(name, "empty instruction" if made else "empty question")
        elif not made:
            yield Record(name, str(last), "qa", {"question": text, "answer": answer}, None, pictures)
        elif question.count(_PICTURE) > len(pictures) - 1:
            yield Skipped(name, "fewer pictures than the conversation speaks of")
        else:
            meta = {"instruction": text} if len(pictures) > 1 else {"captions": [text]}
            kind = "edit" if len(pictures) > 1 else "t2i"
            yield Record(name, str(last), kind, meta, pictures[-1], pictures[:-1])


def read_list(file: Path) -> list[tuple[Path, Path]]:
    """Return (rows, folder of pictures) for each line of a list; names in it are relative to its folder.

    Raises:
        DataError: If a line is of another form.
    """
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip():
            continue
        if len(fields) not in _LIST_FIELDS or not fields[1].endswith((".json", ".jsonl")):
            msg = f"{file}:{number}: expected 'folder of pictures,rows.json,flag', found {line!r}."
            raise DataError(msg)
        found.append((file.parent / fields[1], file.parent / fields[0]))
    return found


def _turns(conversation: Any) -> tuple[str, str]:
    """Return question and answer of a conversation of one turn.

    Raises:
        DataError: The reason to skip the row.
    """
    said: dict[str, list[str]] = {"human": [], "gpt": []}
    for turn in conversation if isinstance(conversation, list) else []:
        who, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(who, str) or who not in said or not isinstance(value, str):
            msg = "conversation is not of human and gpt"
            raise DataError(msg)
        said[who].append(value.strip())
    if not said["human"]:
        msg = "empty conversation"
        raise DataError(msg)
    if len(said["human"]) > 1 or len(said["gpt"]) > 1:
        msg = "conversation of several turns"
        raise DataError(msg)
    return said["human"][0], said["gpt"][0] if said["gpt"] else ""
