"""Which fields of a foreign row hold what, and the records that a row becomes."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from unipic2_data.adapters.record import Member, Picture, Record, Skipped, read_picture
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Fields", "Finder", "Mapper", "pictures_of", "refuse_urls"]

_TEXT_NAMES = {"t2i": "caption", "edit": "instruction", "qa": "question", "prompt": "caption"}
_LARGEST_NUMBER = 1e300  # larger integers are no floats; NaN compares with nothing
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Finder(Protocol):
    """Says where a picture is that a row names."""

    def find(self, name: str) -> Picture | None:
        """Return the place of a picture, or None if there is none of this name."""
        ...


class Mapper(Protocol):
    """Turns a foreign row into records."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of the row that are read."""
        ...

    def applies(self, row: dict[str, Any]) -> bool:
        """Whether the row has the fields that make it one of this layout."""
        ...

    def records(self, name: str, row: dict[str, Any], finder: Finder) -> Iterator[Record | Skipped]:
        """Yield the records of a row."""
        ...


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a foreign row. Of those not named, nothing is kept.

    Attributes:
        kind: What a row becomes. "any": an edit if it has a field of references, else t2i if it has a target, else a
            prompt.
        target: The picture to make: bytes, {bytes, path}, a name, or a list with one of these.
        references: The pictures to start from; each field one, or a list of them.
        text: Captions, instruction or question: all fields together, each one text or a list.
        answer: Answer, of the kind qa.
        caption: Caption of the target of an edit.
        task: What an edit does.
        licence: Licence of this row.
        group: Rows with the same value never fall into different splits; default: the name of the target's file.
        scores: Fields with a number, or an object of numbers.
        metadata: Fields to keep as they are, for a scorer.
        annotation: Field with the name of a JSON file whose fields are added to the row.
        annotation_folder: Folder of these files, relative to the folder of the pictures.
        turns: List of objects with the fields above, the turns of one conversation; each becomes a sample.
        skip: Known defects: field -> pattern; rows whose field contains it are left out.
    """

    kind: Literal["t2i", "edit", "qa", "prompt", "any"] = "any"
    target: str | None = None
    references: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    answer: str | None = None
    caption: str | None = None
    task: str | None = None
    licence: str | None = None
    group: str | None = None
    scores: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    annotation: str | None = None
    annotation_folder: str = ""
    turns: str | None = None
    skip: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of the row that are read."""
        single = (self.target, self.answer, self.caption, self.task, self.licence, self.group)
        several = (*self.references, *self.text, *self.scores, *self.metadata, *self.skip)
        files = (self.annotation, self.turns)
        return tuple(dict.fromkeys(name for name in (*single, *several, *files) if name))

    def applies(self, row: dict[str, Any]) -> bool:
        """Whether the row has the fields that make it one of this layout."""
        if self.turns is not None:
            return self.turns in row
        needed = [self.target] if self.target else []
        needed += [] if self.kind == "any" else self.references
        if self.annotation is not None:
            return self.annotation in row and all(name in row for name in needed)
        return all(name in row for name in needed) and any(name in row for name in self.text)

    def records(self, name: str, row: dict[str, Any], finder: Finder) -> Iterator[Record | Skipped]:
        """Yield the records of a row: one, or one for each turn."""
        for defect, pattern in self.skip.items():
            if re.search(pattern, str(row.get(defect))):
                yield Skipped(name, f"known defect in field '{defect}'")
                return
        if self.annotation is not None:
            try:
                row = row | self._annotation(row, finder)
            except DataError as error:
                yield Skipped(name, str(error))
                return
        if self.turns is None:
            yield self._record(name, row, finder)
            return
        turns = row.get(self.turns)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns) or not turns:
            yield Skipped(name, f"no turns in field '{self.turns}'")
            return
        for number, turn in enumerate(turns, 1):
            found = self._record(f"{name}.{number}", turn, finder, group=name)
            if isinstance(found, Record):
                found.meta["turn"] = number
            yield found

    def _annotation(self, row: dict[str, Any], finder: Finder) -> dict[str, Any]:
        """Return the fields of the JSON file that a row names."""
        file = finder.find(posixpath.join(self.annotation_folder, str(row.get(self.annotation or ""))))
        try:
            fields = json.loads(read_picture(file)) if file is not None else None
        except DataError as error:
            msg = f"file in field '{self.annotation}': {str(error).replace('picture', 'file')}"
            raise DataError(msg) from error
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            msg = f"file in field '{self.annotation}' is not a JSON object"
            raise DataError(msg)
        return fields

    def _record(self, name: str, row: dict[str, Any], finder: Finder, group: str | None = None) -> Record | Skipped:
        try:
            references = [found for key in self.references for found in pictures_of(row, key, finder)]
            targets = pictures_of(row, self.target, finder) if self.target else []
            kind = self._kind(bool(targets), any(key in row for key in self.references))
            self._require_pictures(kind, row, len(targets), len(references))
            meta = self._meta(kind, row)
        except DataError as error:
            return Skipped(name, str(error))
        if self.group is not None:
            group = str(row.get(self.group))
        group = group or (_name(row.get(self.target)) if self.target else None) or name
        return Record(name, group, kind, meta, targets[0] if targets else None, references)

    def _kind(self, target: bool, references: bool) -> str:
        if self.kind != "any":
            return self.kind
        if references:
            return "edit"
        return "t2i" if target else "prompt"

    def _require_pictures(self, kind: str, row: dict[str, Any], targets: int, references: int) -> None:
        if kind in {"t2i", "edit"} and targets != 1:
            what = f"{targets} pictures" if targets else "no picture"
            msg = f"{what} in field '{self.target}'"
            raise DataError(msg)
        if kind in {"edit", "qa"} and not references:
            empty = next((key for key in self.references if not row.get(key)), None)
            msg = f"no picture in field '{empty}'" if empty else "no reference"
            raise DataError(msg)

    def _meta(self, kind: str, row: dict[str, Any]) -> dict[str, Any]:
        texts = _texts(row, self.text, kind)
        meta: dict[str, Any] = {}
        if kind == "edit":
            meta["instruction"] = texts[0] if len(texts) == 1 else texts
        elif kind == "qa":
            meta["question"], meta["answer"] = texts[0], _one_text(row, self.answer)
        else:
            meta["captions"] = texts
        for name, key in (("caption", self.caption), ("task", self.task), ("licence", self.licence)):
            if key and isinstance(row.get(key), str) and row[key].strip():
                meta[name] = row[key].strip()
        scores: dict[str, float] = {}
        for key in self.scores:
            value = row.get(key)
            named: dict[str, Any] = value if isinstance(value, dict) else {key: value}
            scores |= {name: value for name, value in named.items() if _is_number(value)}
        if scores:
            meta["scores"] = scores
        kept = {key: row[key] for key in self.metadata if row.get(key) is not None}
        return meta | ({"metadata": json.loads(json.dumps(kept, default=str))} if kept else {})


def pictures_of(row: dict[str, Any], key: str, finder: Finder) -> list[Picture]:
    """Return the pictures that a field holds: none, one, or a list of them.

    Raises:
        DataError: The reason to skip the row.
    """
    value = row.get(key)
    return [_picture(one, key, finder) for one in (value if isinstance(value, list) else [value]) if one]


def refuse_urls(where: str, row: dict[str, Any]) -> None:
    """Refuse rows that hold addresses of pictures instead of pictures.

    Raises:
        DataError: If a field is an address; the message names the tool that fetches pictures.
    """
    for key, value in row.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and _URL.match(first) and not first.startswith("data:"):
            msg = (
                f"{where} lists addresses of pictures (field '{key}'), not pictures. Fetch them first, for example "
                f"with img2dataset --url_list FILE --url_col {key} --output_format webdataset, then import the tars."
            )
            raise DataError(msg)


def _picture(value: Any, key: str, finder: Finder) -> Picture:
    if isinstance(value, dict):  # as Hugging Face stores pictures
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, Path, Member)):
        return value
    if not isinstance(value, str) or not value.strip():
        msg = f"no picture in field '{key}'"
        raise DataError(msg)
    if _URL.match(value):
        msg = f"address instead of a picture in field '{key}'"
        raise DataError(msg)
    found = finder.find(value)
    if found is None:
        msg = "picture is missing"
        raise DataError(msg)
    return found


def _texts(row: dict[str, Any], keys: tuple[str, ...], kind: str) -> list[str]:
    """Return the different texts of some fields.

    Raises:
        DataError: If a field holds something else, or there is no text.
    """
    values = {key: row[key] for key in keys if row.get(key) is not None}
    if not values:
        msg = f"field '{keys[0] if keys else 'text'}' is missing or not a text"
        raise DataError(msg)
    found: list[str] = []
    for key, value in values.items():
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            msg = f"field '{key}' is missing or not a text"
            raise DataError(msg)
        found += [text.strip() for text in texts if text.strip()]
    if not found:
        msg = f"empty {_TEXT_NAMES[kind]}"
        raise DataError(msg)
    return list(dict.fromkeys(found))


def _one_text(row: dict[str, Any], key: str | None) -> str:
    value = row.get(key) if key else None
    if not isinstance(value, str) or not value.strip():
        msg = f"field '{key}' is missing or not a text"
        raise DataError(msg)
    return value.strip()


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and -_LARGEST_NUMBER < value < _LARGEST_NUMBER


def _name(value: Any) -> str | None:
    """Return the name of a picture's file as the row gives it, which samples with the same target share."""
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) else None
