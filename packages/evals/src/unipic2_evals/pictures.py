"""Pictures and what is asked about them: named by content, so that an answer is found again wherever the files lie.

Legend:
    key: sha256 over the bytes of the pictures' files, how they are cut and resized, what is asked and in which words.
    pixels: RGB, uint8 (H, W, 3).
"""

import hashlib
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Embedded", "Kind", "Picture", "Pixels", "Request", "file_hash"]

Kind = Literal["detections", "answer", "reply"]
"""What a detector, a VQA model and a judge give back."""
Pixels = npt.NDArray[np.uint8]


class Picture(NamedTuple):
    """A picture in a file, or a part of one."""

    path: Path
    crop: tuple[int, int, int, int] | None = None
    """``(left, top, right, bottom)`` in pixels; right and bottom exclusive. None = all of it."""
    like: Path | None = None
    """A picture to whose size this one is resized (GEdit-Bench resizes edits to their sources). None = as it is."""

    def pixels(self) -> Pixels:
        """Return the picture, uint8 (H, W, 3).

        Raises:
            ValueError: If a file can not be read as a picture.
        """
        from PIL import Image

        try:
            with Image.open(self.path) as file:
                image = file.convert("RGB")
            if self.like is not None:
                with Image.open(self.like) as other:
                    size = other.size
                image = image if image.size == size else image.resize(size)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            message = f"{self.path}: can not be read as a picture: {error}"
            raise ValueError(message) from None
        return np.array(image.crop(self.crop) if self.crop else image)

    def identity(self) -> dict[str, object]:
        """Return what tells this picture from others: hashes of files, not their names."""
        like = {"like": file_hash(self.like)} if self.like is not None else {}
        return {"sha256": file_hash(self.path), "crop": self.crop and list(self.crop), **like}


class Embedded(NamedTuple):
    """A picture inside a benchmark's file."""

    data: bytes
    """As PNG, JPEG or the like."""

    def pixels(self) -> Pixels:
        """Return the picture, uint8 (H, W, 3).

        Raises:
            ValueError: If it can not be read.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self.data)) as file:
                return np.array(file.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            message = f"a picture of {len(self.data)} bytes can not be read: {error}"
            raise ValueError(message) from None

    def identity(self) -> dict[str, object]:
        """Return what tells this picture from others."""
        return {"sha256": hashlib.sha256(self.data).hexdigest(), "crop": None}


class Request(NamedTuple):
    """One question to a model that looks at pictures."""

    kind: Kind
    pictures: tuple[Picture | Embedded, ...]
    text: str = ""
    """The whole prompt, word for word; empty for detectors."""

    def key(self) -> str:
        """Return the key under which the answer is kept."""
        content = {"kind": self.kind, "pictures": [picture.identity() for picture in self.pictures], "text": self.text}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file; read once as long as the file stays as it is."""
    stat = path.stat()
    return _file_hash(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=100_000)
def _file_hash(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
