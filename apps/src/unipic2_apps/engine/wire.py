"""Messages between a server and its engines: JSON and plain bytes, never pickle.

A message is the length of its header (4 bytes, little-endian), the header in JSON, and the blobs one after the other;
the header's ``blobs`` lists their lengths. Pictures are blobs of pixels.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

__all__ = ["MODES", "Blob", "from_picture", "pack", "to_picture", "unpack"]

Blob = bytes | memoryview

LENGTH = struct.Struct("<I")
MODES = {"RGB": 3, "RGBA": 4}
"""Kinds of pixels that travel, and bytes of each."""


def pack(header: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> bytes:
    """Return a message.

    Args:
        header: Plain JSON.
        blobs: What goes with it.
    """
    head = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join((LENGTH.pack(len(head)), head, *blobs))


def unpack(message: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """Return a message's header and blobs."""
    (length,) = LENGTH.unpack_from(message)
    start = LENGTH.size + length
    header: dict[str, Any] = json.loads(message[LENGTH.size : start])
    blobs = []
    for size in header.pop("blobs"):
        blobs.append(memoryview(message)[start : start + size])
        start += size
    return header, blobs


def from_picture(picture: Image.Image) -> tuple[dict[str, Any], bytes]:
    """Return a picture as facts for a header, and a blob. Its mode is one of ``MODES``."""
    assert picture.mode in MODES, picture.mode
    return {"mode": picture.mode, "size": list(picture.size)}, picture.tobytes()


def to_picture(facts: Mapping[str, Any], blob: Blob) -> Image.Image:
    """Return the picture of such facts and blob."""
    return Image.frombytes(facts["mode"], tuple(facts["size"]), bytes(blob))
