"""Pictures as strangers send them, and as they are sent back.

Nothing that comes in is trusted: only PNG, JPEG and WebP are tried, sizes are checked before pixels are unpacked, and
neither paths nor URLs are opened.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Literal

from PIL import Image, ImageOps

from unipic2_apps.metadata import ai_label, png_info
from unipic2_apps.server.errors import ApiError

__all__ = ["encode", "read_data_uri", "read_picture", "to_data_uri"]

FORMATS = ("PNG", "JPEG", "WEBP")
MIMES = {"image/png", "image/jpeg", "image/jpg", "image/webp"}
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,", re.ASCII)
PNG_EFFORT = 3
"""Of zlib's 9: three times as fast as the usual 6, for files a few percent larger."""


def read_picture(data: bytes, *, max_pixels: int, mime: str | None = None, param: str = "image") -> Image.Image:
    """Return a picture, upright, as RGB or RGBA.

    Args:
        data: The bytes of a file.
        max_pixels: The most pixels.
        mime: What the client says that it is.
        param: The field that it came in.

    Raises:
        ApiError: If it is no picture, of another kind, damaged or too large.
    """
    if mime is not None and mime not in MIMES and mime != "application/octet-stream":
        msg = f"the picture is sent as {mime[:100]!r}; send PNG, JPEG or WebP."
        raise _refused(msg, param)
    try:
        # A decoder fails in as many ways as there are broken files.
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                msg = (
                    f"the picture has {width}x{height} = {width * height} pixels, and at most {max_pixels} are taken: "
                    f"scale it down."
                )
                raise _refused(msg, param)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except ApiError:
        raise
    except Image.DecompressionBombError:
        msg = "the picture unpacks to far too many pixels: scale it down."
        raise _refused(msg, param) from None
    except Exception:
        msg = "the picture can't be read: it is damaged, cut short, or neither PNG, JPEG nor WebP."
        raise _refused(msg, param) from None


def read_data_uri(uri: str, *, max_pixels: int, param: str = "image") -> Image.Image:
    """Return the picture inside a data URI; see ``read_picture``.

    Raises:
        ApiError: If it is no data URI, or holds no picture.
    """
    found = _DATA_URI.match(uri)
    if found is None:
        msg = "pictures in JSON are data URIs (data:image/png;base64,...): no other URLs, paths or file ids are opened."
        raise _refused(msg, param)
    try:
        data = base64.b64decode(uri[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        msg = "the data URI is no valid base64."
        raise _refused(msg, param) from None
    return read_picture(data, max_pixels=max_pixels, mime=found[1].lower(), param=param)


def encode(picture: Image.Image, kind: str, *, quality: int = 100, edited: bool = False, label: bool = True) -> bytes:
    """Return a picture as a file.

    Args:
        picture: The picture.
        kind: ``png``, ``jpeg`` or ``webp``.
        quality: Of JPEG and WebP, from 0 to 100.
        edited: It is an edit of another picture.
        label: Write into it that it was made by AI.
    """
    file = io.BytesIO()
    what: Literal["generate", "edit"] = "edit" if edited else "generate"
    if kind == "png":
        picture.save(file, format="PNG", compress_level=PNG_EFFORT, pnginfo=png_info(what, label=label))
    else:
        xmp = {"xmp": ai_label(what).encode()} if label else {}
        picture.save(file, format=kind.upper(), quality=quality, **xmp)
    return file.getvalue()


def to_data_uri(data: bytes, kind: str) -> str:
    """Return a file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, "invalid_image", f"{param}: {message}", param=param)
