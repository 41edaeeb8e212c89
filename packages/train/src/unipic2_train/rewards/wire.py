"""How a reward is asked over HTTP: JSON, with pictures as PNG, so that the server scores the pixels that were made.

``POST URL/score``, and what comes back::

    {"schema": "unipic2-reward/1", "kind": "edit",
     "pictures": [PNG in base64, ...],                       each once, however many rows show it
     "rows": [{"picture": 0, "source": 1, "target": 2, "prompt": "...", "group": "...", "meta": {...}}, ...]}
    {"schema": "unipic2-reward/1", "model": "...", "revision": "...", "scores": [0.5, null, ...]}

One score a row; null where it could not be had. ``source`` and ``target`` are there for edits, in all rows or in none.
``GET URL/health`` returns schema, model, revision, and the ``kinds`` and ``whole_groups`` of the reward (see ``base``).
What does not fit is a `ValueError` that names the place, on either side.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unipic2_evals.answers import JudgeId
from unipic2_evals.checks import as_field, as_json, as_mapping, as_number, as_rows, as_text
from unipic2_train.rewards.base import RewardRequest

__all__ = ["SCHEMA", "LastingError", "read_health", "read_reply", "read_request", "write_health", "write_reply",
           "write_request"]  # fmt: skip

SCHEMA = "unipic2-reward/1"
LARGEST = 4096 * 4096  # pixels of a picture
NUMBERS = {"source": "sources", "target": "targets"}


class LastingError(ValueError):
    """What no later try mends: another version, another model, another address."""


def write_request(request: RewardRequest) -> bytes:
    """Return the body of a request."""
    pictures: dict[bytes, int] = {}
    encoded: list[str] = []

    def place(picture: Tensor) -> int:
        pixels = picture.numpy()
        key = f"{pixels.shape} ".encode() + pixels.tobytes()
        if key not in pictures:
            pictures[key] = len(encoded)
            encoded.append(_png(pixels))
        return pictures[key]

    rows = []
    for row in range(len(request)):
        shown = {"picture": place(request.pictures[row])}
        for name, field in NUMBERS.items():
            if (several := getattr(request, field)) is not None:
                shown[name] = place(several[row])
        rows.append({**shown, "prompt": request.prompts[row], "group": request.groups[row], "meta": request.meta[row]})
    return _body({"schema": SCHEMA, "kind": request.kind, "pictures": encoded, "rows": rows})


def read_request(body: bytes) -> RewardRequest:
    """Return the request of a body.

    Raises:
        LastingError: It is of another version.
        ValueError: It is no request; the message says where.
    """
    fields = _fields(body, "request")
    kind = as_text(as_field(fields, "kind", "request"), "kind")
    rows = as_rows(as_field(fields, "rows", "request"), "rows")
    named = [(f"row {number}", as_mapping(row, f"row {number}")) for number, row in enumerate(rows)]
    pictures = [
        _pixels(as_text(text, f"picture {number}"), f"picture {number}")
        for number, text in enumerate(as_rows(as_field(fields, "pictures", "request"), "pictures"))
    ]
    return RewardRequest(
        kind,
        _shown(named, "picture", pictures),
        [as_text(as_field(row, "prompt", name), f"prompt of {name}") for name, row in named],
        [as_text(as_field(row, "group", name), f"group of {name}") for name, row in named],
        [dict(as_mapping(as_field(row, "meta", name), f"meta of {name}")) for name, row in named],
        **{
            field: _shown(named, name, pictures) if any(name in row for _, row in named) else None
            for name, field in NUMBERS.items()
        },
    )


def write_reply(who: JudgeId, scores: Tensor) -> bytes:
    """Return the body of a reply."""
    values = [None if score != score else score for score in scores.double().tolist()]
    return _body({"schema": SCHEMA, "model": who.id, "revision": who.revision, "scores": values})


def read_reply(body: bytes, count: int) -> tuple[JudgeId, Tensor]:
    """Return who scored, and the scores, float64 (count,).

    Raises:
        LastingError: It is of another version.
        ValueError: It is no reply, or has another number of scores.
    """
    fields = _fields(body, "reply")
    scores = as_rows(as_field(fields, "scores", "reply"), "scores", least=0)
    if len(scores) != count:
        msg = f"reply: {len(scores)} scores for {count} rows"
        raise ValueError(msg)
    values = [
        torch.nan if score is None else as_number(score, f"score {number}") for number, score in enumerate(scores)
    ]
    return _who(fields), torch.tensor(values, dtype=torch.float64)


def write_health(who: JudgeId, kinds: Sequence[str], whole_groups: bool) -> bytes:
    """Return what ``/health`` says."""
    return _body({"schema": SCHEMA, "model": who.id, "revision": who.revision, "kinds": list(kinds),
                  "whole_groups": whole_groups})  # fmt: skip


def read_health(body: bytes) -> tuple[JudgeId, tuple[str, ...], bool]:
    """Return who scores, which kinds, and whether it compares the pictures of a group.

    Raises:
        LastingError: It is of another version.
        ValueError: It says something else.
    """
    fields = _fields(body, "health")
    kinds = as_rows(as_field(fields, "kinds", "health"), "kinds")
    whole_groups = as_field(fields, "whole_groups", "health")
    return _who(fields), tuple(as_text(kind, "kinds") for kind in kinds), whole_groups is True


def _body(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False).encode()


def _fields(body: bytes, name: str) -> Mapping[str, Any]:
    """Return the fields of a body of our version."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        msg = f"{name}: no UTF-8: {error}"
        raise ValueError(msg) from None
    fields = as_mapping(as_json(text, name), name)
    found = as_field(fields, "schema", name)
    if found != SCHEMA:
        msg = f"{name}: expected schema {SCHEMA!r}, got {found!r}: both sides need the same version of unipic2-train"
        raise LastingError(msg)
    return fields


def _who(fields: Mapping[str, Any]) -> JudgeId:
    return JudgeId(*(as_text(as_field(fields, name, "reply"), name) for name in ("model", "revision")))


def _shown(rows: Sequence[tuple[str, Mapping[Any, Any]]], field: str, pictures: Sequence[Tensor]) -> Tensor:
    """Return the pictures that a field of the rows refers to, uint8 (B, H, W, 3)."""
    chosen = []
    for name, row in rows:
        number = as_field(row, field, name)
        if type(number) is not int or not 0 <= number < len(pictures):
            msg = f"{field} of {name}: expected the number of one of {len(pictures)} pictures, got {number!r}"
            raise ValueError(msg)
        chosen.append(pictures[number])
    sizes = sorted({tuple(picture.shape[:2]) for picture in chosen})
    if len(sizes) > 1:
        msg = f"the rows' {field} pictures have the sizes {sizes}: one request holds pictures of one size"
        raise ValueError(msg)
    return torch.stack(chosen)


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _pixels(text: str, name: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as file:
            if file.width * file.height > LARGEST:
                msg = f"{name}: {file.width} x {file.height} pixels are more than {LARGEST}"
                raise ValueError(msg)
            return torch.from_numpy(np.array(file.convert("RGB")))
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        msg = f"{name}: expected PNG in base64: {error}"
        raise ValueError(msg) from None
