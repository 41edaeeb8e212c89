"""The canonical sample, version 1, and its form as members of a webdataset tar.

A sample is a key, a kind and a JSON object; the images and the text depend on the kind:

========  =======================  ==========================  =====================
kind      images                   text                        meant for
========  =======================  ==========================  =====================
t2i       target                   ``captions`` (one or more)  text-to-image
edit      target, ref_0, ref_1...  ``instruction``             editing
qa        ref_0...                 ``question``, ``answer``    understanding
prompt    none                     ``captions``                prompts of RL
========  =======================  ==========================  =====================

In a tar, sample ``KEY`` is the adjacent members ``KEY.json``, ``KEY.target.png`` (or .jpg, ...), ``KEY.ref_0.png`` and
so on; plain webdataset reads it. In the JSON, ``version``, ``kind`` and the text of the kind are mandatory; an
``instruction`` may be a list of phrasings, as captions are. Known optional fields:

===================  ===================================================================================
task                 what an edit does ("add", "style", ...), or the category of a prompt
source, licence      where the sample comes from ("import:NAME") and an SPDX name of what it may be used for
width, height        of the target, pixels
reference_sizes      ``{"width": w, "height": h}`` of each reference
scores               name -> number, from the source or a judge
caption              of the target of an edit
metadata             what a scorer needs beside the text (GenEval's include and exclude, ...)
shapes               ground truth of the shapes world
===================  ===================================================================================

Other fields are kept as they are. **Versions**: a new optional field, a new kind and a new role of an image (a
preference pair would add ``KEY.rejected.png``) keep version 1, since readers leave fields and roles alone that they do
not know, and name a kind that they do not know. The version rises only if old fields change their meaning; shards of
older versions stay readable.

Tars of others, read in place after ``unipic2-data index``: ``KEY.jpg`` with ``KEY.txt``, or with a ``KEY.json`` that
has no version but a ``captions``, ``caption`` or ``prompt``, is a t2i sample.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from unipic2_data.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "KINDS",
    "SAMPLE_VERSION",
    "Image",
    "Sample",
    "document_from_tar",
    "lacks",
    "rebuild",
    "sample_from_tar",
    "sample_to_tar",
    "split_name",
    "texts_of",
]

SAMPLE_VERSION = 1
KINDS = ("t2i", "edit", "qa", "prompt")
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

_NEEDS_TARGET = {"t2i", "edit"}
_NEEDS_REFERENCE = {"edit", "qa"}
_FOREIGN_TEXTS = ("captions", "caption", "prompt")  # of a JSON member of others, the first that is there
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # key and field, as webdataset cuts a member's name
_HALF = re.compile("[\ud800-\udfff]")
_FILES = (b"0", b"\0")  # types of tar members
_LONG_NAME, _PAX = b"L", b"x"
_PAX_PATH = re.compile(rb"(?:^|\n)\d+ path=([^\n]*)\n")

_BLOCK = 512
_HEADER = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))  # mode 0644; no name, owner 0, time 0, size 0
_HEADER[124:135] = bytes(11)  # the size, and the name, are added to the sum by each member
_HEADER_SUM = sum(_HEADER) - sum(_HEADER[148:156]) + 8 * ord(" ")


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image: the bytes of the file and its suffix without dot ("png", "jpg", ...)."""

    data: bytes
    suffix: str = "png"


@dataclass(slots=True)
class Sample:
    """One canonical sample.

    Attributes:
        key: Unique name: letters, digits, "-" and "_" (webdataset cuts a name at its first dot).
        kind: One of ``KINDS``.
        meta: JSON object without ``version`` and ``kind``, which are written from here.
        target: The image to make, or None.
        references: The images to start from.
    """

    key: str
    kind: str
    meta: dict[str, Any]
    target: Image | None = None
    references: list[Image] = field(default_factory=list)


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and field of a tar member as webdataset cuts its name, at the first dot after the folders."""
    found = _NAME.fullmatch(name.removeprefix("./"))
    return (found[1], found[2]) if found else None


def texts_of(kind: str, meta: dict[str, Any], where: str) -> list[str]:
    """Return the texts that may prompt the model for a sample: its captions, or the instruction of an edit.

    Blank texts are left out, and those with half a character (one surrogate alone), which no tokenizer reads.

    Args:
        kind: Kind of the sample.
        meta: Its JSON object.
        where: Name of the sample, for the message.

    Raises:
        DataError: If there is none, or only empty ones.
    """
    name = {"edit": "instruction", "qa": "question"}.get(kind, "captions")
    value = meta.get(name)
    texts = [text for text in (value if isinstance(value, list) else [value]) if _is_text(text)]
    if not texts:
        msg = (
            f"{where}: a {kind} sample needs a text in '{name}', found {value!r}. Remove the sample or give it a text."
        )
        raise DataError(msg)
    return texts


def lacks(sample: Sample) -> str | None:
    """Return what a sample of its kind needs and this one has not ("no target"), or None if nothing is missing."""
    if sample.kind in _NEEDS_TARGET and sample.target is None:
        return "no target"
    if sample.kind in _NEEDS_REFERENCE and not sample.references:
        return "no reference"
    try:
        texts_of(sample.kind, sample.meta, sample.key)
    except DataError:
        return "no text"
    if sample.kind == "qa" and not str(sample.meta.get("answer") or "").strip():
        return "no answer"
    return None


def sample_to_tar(sample: Sample) -> bytes:
    """Return the sample as the bytes of its tar members: USTAR headers, time and owner 0, padded to 512 bytes.

    Raises:
        DataError: If the key, kind or text cannot be stored.
    """
    if not sample.key.replace("-", "").replace("_", "").isalnum() or not sample.key.isascii() or len(sample.key) > 80:
        msg = f"sample key {sample.key!r}: expected at most 80 letters, digits, '-' and '_'."
        raise DataError(msg)
    if sample.kind not in KINDS:
        msg = f"sample {sample.key}: unknown kind {sample.kind!r}, expected one of {', '.join(KINDS)}."
        raise DataError(msg)
    parts = [_member(f"{sample.key}.json", _document(sample))]
    texts_of(sample.kind, sample.meta, f"sample {sample.key}")
    if sample.target is not None:
        parts.append(_member(f"{sample.key}.target.{sample.target.suffix}", sample.target.data))
    for index, image in enumerate(sample.references):
        parts.append(_member(f"{sample.key}.ref_{index}.{image.suffix}", image.data))
    return b"".join(parts)


def sample_from_tar(data: bytes, where: str) -> Sample:
    """Read back what `sample_to_tar` wrote.

    Args:
        data: The bytes of the sample's members, headers included.
        where: Name of the shard and position, for messages.

    Raises:
        DataError: If a member is damaged or missing, or the version is unknown.
    """
    members = _members(data, where)
    found = _NAME.fullmatch(next(iter(members), ""))
    key = found[1] if found else ""
    fields = {name.removeprefix(f"{key}."): payload for name, payload in members.items()}
    try:
        meta = json.loads(fields.pop("json", b"{}"))
        if "version" not in meta:
            return _foreign_sample(key, fields, meta)
        version, kind = meta.pop("version"), meta.pop("kind")
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        msg = f"{where}: sample {key!r} has no readable json member with version and kind ({error})."
        raise DataError(msg) from error
    if version != SAMPLE_VERSION or kind not in KINDS:
        msg = f"{where}: sample {key!r} has version {version!r} and kind {kind!r}; expected {SAMPLE_VERSION}, {KINDS}."
        raise DataError(msg)
    sample = Sample(key, kind, meta)
    references: dict[int, Image] = {}
    for name, payload in fields.items():
        role, _, suffix = name.rpartition(".")
        if role == "target":
            sample.target = Image(payload, suffix)
        elif role.startswith("ref_") and role[4:].isdecimal():
            references[int(role[4:])] = Image(payload, suffix)
    sample.references = [references[index] for index in sorted(references)]
    return sample


def rebuild(data: bytes, sample: Sample, key: str) -> bytes:
    """Return a sample's members with the JSON object that it has now, under a key; images keep their bytes.

    Args:
        data: The members that the sample was read from.
        sample: The sample, of the old key.
        key: The key to write.

    Raises:
        DataError: If the members are not those of a canonical sample.
    """
    members = _members(data, f"sample {sample.key}")
    if f"{sample.key}.json" not in members or not all(name.startswith(f"{sample.key}.") for name in members):
        msg = f"sample {sample.key} is not in the canonical form, which alone can be changed; import its tar first."
        raise DataError(msg)
    members[f"{sample.key}.json"] = _document(sample)
    return b"".join(_member(key + name.removeprefix(sample.key), payload) for name, payload in members.items())


def document_from_tar(head: bytes) -> tuple[str, dict[str, Any]] | None:
    """Return key and JSON object (without version and kind) of a sample from the first bytes of its members.

    None if they do not hold it whole, as in tars of others: then `sample_from_tar` has to read all.
    """
    name, _, _ = head[:100].partition(b"\0")
    if not name.endswith(b".json") or head[156:157] not in _FILES:
        return None
    try:
        payload = head[_BLOCK : _BLOCK + int(head[124:135], 8)]
        document = json.loads(payload)
        if document.pop("version") != SAMPLE_VERSION or document.pop("kind") not in KINDS:
            return None
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError):
        return None
    return name.decode("utf-8", "replace").partition(".")[0], document


def _foreign_sample(key: str, fields: dict[str, bytes], meta: dict[str, Any]) -> Sample:
    """Return a picture with a text beside it as a t2i sample; a ValueError or KeyError says why it is none."""
    images = [Image(payload, name) for name, payload in fields.items() if name.lower() in IMAGE_SUFFIXES]
    if len(images) != 1:
        msg = f"nor one picture, but {len(images)}"
        raise ValueError(msg)
    if "txt" in fields:
        texts = [fields["txt"].decode("utf-8-sig").strip()]
    else:
        texts = meta[next((name for name in _FOREIGN_TEXTS if name in meta), _FOREIGN_TEXTS[0])]
    return Sample(key, "t2i", meta | {"captions": texts if isinstance(texts, list) else [texts]}, images[0])


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip()) and (value.isascii() or not _HALF.search(value))


def _document(sample: Sample) -> bytes:
    document = {"version": SAMPLE_VERSION, "kind": sample.kind, **sample.meta}
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        msg = f"sample {sample.key}: its text cannot be written as UTF-8 ({error.reason})."
        raise DataError(msg) from error


def _member(name: str, payload: bytes) -> bytes:
    """Return header, payload and padding: what `tarfile` writes for a USTAR member, six times faster."""
    variable = name.encode(), b"%011o" % len(payload)
    checksum = b"%06o" % (_HEADER_SUM + sum(map(sum, variable)))
    header = bytearray(_HEADER)
    header[: len(variable[0])] = variable[0]
    header[124:135] = variable[1]
    header[148:154] = checksum
    return bytes(header) + payload + bytes(-len(payload) % _BLOCK)


def _members(data: bytes, where: str) -> dict[str, bytes]:
    """Return the files of a piece of a tar by name. Other members are left out; long names of pax and GNU are read."""
    members, position, long_name = {}, 0, None
    while position + _BLOCK <= len(data):
        header = data[position : position + _BLOCK]
        try:
            name = header[:100].partition(b"\0")[0].decode() if long_name is None else long_name
            size = int(header[124:135], 8)
        except ValueError as error:
            msg = f"{where}: damaged tar header at byte {position} ({error}). Check the data with its manifest."
            raise DataError(msg) from error
        start, stop = position + _BLOCK, position + _BLOCK + size
        if size < 0 or stop > len(data):
            msg = f"{where}: member {name!r} is cut off. Check the data with its manifest."
            raise DataError(msg)
        kind, long_name = header[156:157], None
        if kind in _FILES:
            members[name] = data[start:stop]
        elif kind in {_LONG_NAME, _PAX}:
            long_name = _long_name(kind, data[start:stop])
        position = stop + -size % _BLOCK
    return members


def _long_name(kind: bytes, payload: bytes) -> str | None:
    """Return the name that a member before a file gives it, or None if it speaks of other things."""
    if kind == _LONG_NAME:
        return payload.rstrip(b"\0").decode("utf-8", "replace")
    path = _PAX_PATH.search(payload)
    return path[1].decode("utf-8", "replace") if path else None
