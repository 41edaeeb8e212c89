import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unipic2_apps.server.errors import ApiError
from unipic2_apps.server.pictures import encode, read_data_uri, read_picture, to_data_uri


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND", b"")


BAD = {
    "empty": b"",
    "text": b"hello",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "bomb": png(40_000, 40_000, chunk(b"IDAT", zlib.compress(b"\0" * 1000))),
    "beyond counting": png(2**31 - 1, 2**31 - 1),
    "no pixels": png(0, 0),
    "no data": png(8, 8),
    "text bomb": png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 2**27)), chunk(b"IDAT", b"")),
    "gif": None,
    "tiff": None,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_usable_picture_is_refused(name, picture, as_file):
    data = BAD[name] if BAD[name] is not None else as_file(picture(1), name.upper())
    with pytest.raises(ApiError) as caught:
        read_picture(data, max_pixels=4096)
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_and_damaged_files(kind, picture, as_file):
    whole = as_file(picture(1, 32, 32), kind)
    assert read_picture(whole, max_pixels=1024).size == (32, 32)
    with pytest.raises(ApiError, match="can't be read"):
        read_picture(whole[: len(whole) // 2], max_pixels=1024)
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(ApiError):  # some damage does not show
            read_picture(bytes(damaged), max_pixels=1024)


def test_size_is_checked_before_pixels(picture, as_file):
    with pytest.raises(ApiError, match=r"8x9 = 72 pixels, and at most 71"):
        read_picture(as_file(picture(1, 8, 9)), max_pixels=71)


def test_pictures_are_turned_as_their_camera_says():
    source = Image.new("RGB", (8, 4), "red")
    exif = source.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    source.save(file, format="JPEG", exif=exif)
    assert read_picture(file.getvalue(), max_pixels=100).size == (4, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGBA"])
def test_modes(mode, picture, as_file):
    source = picture(1).convert("L").convert("I").convert(mode) if mode == "I;16" else picture(1).convert(mode)
    assert read_picture(as_file(source), max_pixels=1000).mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")


def test_the_declared_type_has_to_be_one_of_a_picture(picture, as_file):
    data = as_file(picture(1))
    for mime in ("image/png", "image/jpeg", "application/octet-stream", None):
        assert read_picture(data, max_pixels=1000, mime=mime).size == (16, 16)
    with pytest.raises(ApiError, match="'text/html'; send PNG, JPEG or WebP"):
        read_picture(data, max_pixels=1000, mime="text/html")


@pytest.mark.parametrize("uri", ["", "x", "http://host/x.png", "data:image/png,abc", "data:image/png;base64", "DATA:"])
def test_only_data_uris(uri):
    with pytest.raises(ApiError, match="data URIs"):
        read_data_uri(uri, max_pixels=1000)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_files_come_back(kind, picture):
    source = picture(1)
    for label in (True, False):
        data = encode(source, kind, edited=True, label=label)
        assert (b"compositeWithTrainedAlgorithmicMedia" in data) == label
    again = read_data_uri(to_data_uri(data, kind), max_pixels=1000)
    assert again.size == source.size
    if kind == "png":
        assert np.array_equal(np.asarray(again), np.asarray(source))
    assert len(encode(source, "jpeg", quality=10)) < len(encode(source, "jpeg", quality=100))
