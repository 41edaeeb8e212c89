"""Encoded images to and from arrays of RGB pixels, uint8 (H, W, 3)."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["Raster", "decode_picture", "decode_rgb", "decode_small", "encode_png", "picture_size", "plain_picture"]

_PLAIN = {"JPEG": "jpg", "PNG": "png"}
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, zlib.error, struct.error)  # what Pillow raises
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = range(5, 9)  # orientations with sides exchanged
_JPEG = b"\xff\xd8"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">8sI4sIIBBBBBI")  # signature, the IHDR chunk
_PLAIN_LIMIT = 1 << 26  # bytes of pixels; above, Pillow decides
_RGB8 = (8, 2, 0, 0, 0)  # bits, colour type RGB, deflate, standard filters, not interlaced


@dataclass(frozen=True, slots=True)
class Raster:
    """A decoded picture, perhaps smaller than its file by a whole factor.

    Attributes:
        source: Its pixels, as an array uint8 (h, w, 3) or as Pillow's RGB picture: whichever the decoder made, since
            turning one into the other copies them all.
        size: Height and width of the file's picture, as it is viewed.
        reduction: Pixels of the file for each of the source, along an edge: 1, 2, 4 or 8. An edge that it does not
            divide is rounded up, so that the last row or column of the source stands for less.
    """

    source: np.ndarray | PilImage
    size: tuple[int, int]
    reduction: int = 1

    @staticmethod
    def of(pixels: np.ndarray) -> Raster:
        """Return pixels as a picture of their own size."""
        return Raster(pixels, (pixels.shape[0], pixels.shape[1]))

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return np.asarray(self.source)

    @property
    def image(self) -> PilImage:
        """Pillow's picture."""
        from PIL import Image

        return Image.fromarray(self.source) if isinstance(self.source, np.ndarray) else self.source


def encode_png(pixels: np.ndarray, level: int = 1) -> bytes:
    """Encode RGB pixels as a PNG without row filters (flat drawings need none).

    Args:
        pixels: uint8 (H, W, 3).
        level: zlib level 0-9.

    Returns:
        The bytes of a PNG file.
    """
    height, width, channels = pixels.shape
    if pixels.dtype != np.uint8 or channels != 3:
        msg = f"encode_png: expected uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}."
        raise ValueError(msg)
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    chunks = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *_RGB8)),
        _chunk(b"IDAT", zlib.compress(rows.tobytes(), level)),
        _chunk(b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(chunks)


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode an image file to upright RGB pixels.

    EXIF rotation is applied; alpha is laid on white; CMYK, grey, palette and 16-bit images are converted.

    Args:
        data: Bytes of a file of any format that Pillow reads.

    Returns:
        uint8 (H, W, 3), not writable for PNGs written by `encode_png`.

    Raises:
        DataError: If the bytes are no image, or a damaged or oversized one.
    """
    pixels = _decode_plain_png(data)
    if pixels is not None:
        return pixels

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(_to_rgb(image))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        msg = f"unreadable image ({len(data)} bytes): {error}"
        raise DataError(msg) from error


def decode_picture(data: bytes, size: tuple[int, int] | None = None) -> Raster:
    """Decode an image file as `decode_rgb` does, a JPEG no larger than needed.

    Args:
        data: Bytes of a file of any format that Pillow reads.
        size: (H, W) that the pixels must cover, if the picture does; None = decode it whole.

    Raises:
        DataError: If the bytes are no image, or a damaged or oversized one.
    """
    pixels = _decode_plain_png(data)
    if pixels is not None:
        return Raster.of(pixels)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            width, height = image.size
            if size is not None and data.startswith(_JPEG):
                image.draft("RGB", size if turned else size[::-1])
            reduction = next(k for k in (1, 2, 4, 8) if (-(-width // k), -(-height // k)) == image.size)
            source = _to_rgb(image)
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        msg = f"unreadable image ({len(data)} bytes): {error}"
        raise DataError(msg) from error
    return Raster(source, (width, height) if turned else (height, width), reduction)


def decode_small(data: bytes, side: int) -> np.ndarray:
    """Decode an image file to upright RGB pixels, a large JPEG at an eighth, a quarter or half of its size.

    Args:
        data: Bytes of a file of any format that Pillow reads.
        side: Both sides stay at least this long, if they are.

    Returns:
        uint8 (H, W, 3); of a JPEG that is not small, the decoder is several times faster than `decode_rgb`.

    Raises:
        DataError: If the bytes are no image, or a damaged or oversized one.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                image.draft("RGB", (side, side))
            return np.asarray(_to_rgb(image))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        msg = f"unreadable image ({len(data)} bytes): {error}"
        raise DataError(msg) from error


def picture_size(data: bytes) -> tuple[int, int]:
    """Return height and width of an image file as it is viewed, from its head alone.

    Raises:
        DataError: If the bytes are no image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        msg = f"unreadable image ({len(data)} bytes): {error}"
        raise DataError(msg) from error
    return (width, height) if turned else (height, width)


def plain_picture(data: bytes) -> tuple[bytes, str, tuple[int, int]]:
    """Return a file that any reader shows the same way, its suffix, and its height and width.

    Args:
        data: Bytes of an image file.

    Returns:
        The bytes themselves if they are an upright 8-bit RGB JPEG or PNG, else the pixels of `decode_rgb` as a PNG.

    Raises:
        DataError: If the bytes are no image, or a damaged or oversized one.
    """
    from PIL import Image

    pixels = decode_rgb(data)
    size = (pixels.shape[0], pixels.shape[1])
    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        if image.format in _PLAIN and image.mode == "RGB" and upright and "transparency" not in image.info:
            return data, _PLAIN[image.format], size
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), "png", size


def _chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def _decode_plain_png(data: bytes) -> np.ndarray | None:
    """Decode what `encode_png` writes, four times faster than Pillow; None for any other file."""
    if len(data) < 57 or not data.startswith(_SIGNATURE):
        return None
    _, _, _, width, height, *layout, _ = _HEAD.unpack_from(data)
    (length,) = struct.unpack_from(">I", data, 33)
    end = 41 + length
    if tuple(layout) != _RGB8 or data[37:41] != b"IDAT" or data[end + 8 : end + 12] != b"IEND":
        return None
    if zlib.crc32(data[37:end]) != struct.unpack_from(">I", data, end)[0]:
        return None
    size = height * (1 + 3 * width)
    if size > _PLAIN_LIMIT:
        return None
    try:
        raw = zlib.decompressobj().decompress(data[41:end], size + 1)
    except zlib.error:
        return None
    if len(raw) != size:
        return None
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + 3 * width)
    if rows[:, 0].any():
        return None
    return rows[:, 1:].reshape(height, width, 3)


def _to_rgb(image: PilImage) -> PilImage:
    """Return an upright RGB picture, the very same one if it is that."""
    from PIL import Image, ImageOps

    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        values = np.asarray(image).astype(np.float32)
        scale = 255 / 65535 if image.mode.startswith("I") else 1.0
        image = Image.fromarray((values * scale + 0.5).clip(0, 255).astype(np.uint8))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
