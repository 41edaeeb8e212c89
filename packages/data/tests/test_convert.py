"""Every fault that a picture or text of others can have, caused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipic2_data.adapters.record import Record
from unipic2_data.convert import Conversion, convert
from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb
from unipic2_data.sample import sample_to_tar

SETTINGS = Conversion("import:test", "MIT", max_references=1)


def t2i(data):
    return Record("pictures/name 1.jpg", "g", "t2i", {"captions": ["x"]}, data)


def edit(target, *references):
    return Record("row:1", "g", "edit", {"instruction": "x"}, target, list(references))


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width, height):
    """Return a small PNG file that says it is huge."""

    def chunk(name, payload):
        return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_a_sample_with_all_that_is_known(files):
    sample = convert(edit(files.picture(1, (30, 20)), files.picture(2, (60, 40))), SETTINGS)
    assert sample.meta == {
        "source": "import:test",
        "licence": "MIT",
        "instruction": "x",
        "height": 20,
        "width": 30,
        "reference_sizes": [{"height": 40, "width": 60}],
    }
    assert sample.key.startswith("row-1-")
    assert sample_to_tar(sample)


def test_kinds_without_a_target(files):
    qa = Record("q", "g", "qa", {"question": "x", "answer": "y"}, None, [files.picture(1)])
    assert convert(qa, SETTINGS).meta["reference_sizes"] == [{"height": 16, "width": 24}]
    prompt = Record("p", "g", "prompt", {"captions": ["x"]})
    assert convert(prompt, SETTINGS).meta == {"source": "import:test", "licence": "MIT", "captions": ["x"]}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda jpeg: b"", "picture is empty"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "picture is unreadable"),
        (lambda jpeg: jpeg[:2] + jpeg[40:], "picture is unreadable"),
        (lambda jpeg: b"<html>not found</html>", "picture is unreadable"),
        (lambda jpeg: encode(Image.new("RGB", (64, 64)))[:60], "picture is unreadable"),
        (lambda jpeg: bomb(50_000, 50_000), "picture is larger than any that is read"),
        (lambda jpeg: bomb(0, 10), "picture is unreadable"),
        (lambda jpeg: Path("absent.jpg"), "picture is missing"),
    ],
)
def test_damaged_pictures(files, damage, reason):
    broken = damage(files.picture(1, (64, 48)))
    for record in (t2i(broken), edit(broken, files.picture(1)), edit(files.picture(1), broken)):
        with pytest.raises(DataError, match=f"^{reason}$"):
            convert(record, SETTINGS)


def test_a_cut_jpeg_with_its_end_in_place_is_found(files):
    jpeg = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)), "JPEG")
    with pytest.raises(DataError, match="unreadable"):
        convert(t2i(jpeg[: len(jpeg) // 2]), SETTINGS)


def odd_pictures():
    pixels = np.tile(np.linspace(0, 255, 24, dtype=np.uint8), (16, 1))
    rgb = Image.fromarray(np.dstack([pixels] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "CMYK": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "16 bits": encode(Image.fromarray(pixels.astype(np.uint16) * 257)),
        "alpha": encode(Image.fromarray(np.dstack([pixels] * 3 + [np.full_like(pixels, 255)]))),
        "grey and alpha": encode(Image.fromarray(pixels).convert("LA")),
        "palette": encode(rgb.quantize(256)),
        "palette with transparency": encode(rgb.quantize(256), transparency=255),
        "interlaced": encode(rgb.convert("L"), "GIF"),
        "turned": encode(rgb.rotate(90, expand=True), "JPEG", quality=95, exif=exif),
        "webp": encode(rgb, "WEBP", lossless=True),
        "tiff": encode(rgb, "TIFF"),
        "float": encode(Image.fromarray(pixels.astype(np.float32)), "TIFF"),
        "bilevel": encode(rgb.convert("1"), "PNG"),
    }


@pytest.mark.parametrize("kind", odd_pictures())
def test_odd_pictures_become_upright_rgb(kind):
    sample = convert(t2i(odd_pictures()[kind]), SETTINGS)
    assert sample.target.suffix == "png"
    assert (sample.meta["height"], sample.meta["width"]) == (16, 24)
    with Image.open(io.BytesIO(sample.target.data)) as image:
        assert image.mode == "RGB"
    stored = decode_rgb(sample.target.data).astype(int)
    if kind != "bilevel":
        assert np.abs(stored - np.linspace(0, 255, 24)[None, :, None]).max() <= 12


def test_mismatched_pairs(files):
    with pytest.raises(DataError, match="source and target have different aspect ratios"):
        convert(edit(files.picture(1, (24, 16)), files.picture(2, (16, 24))), SETTINGS)
    assert convert(edit(files.picture(1, (24, 16)), files.picture(2, (48, 32))), SETTINGS).references


def test_missing_and_too_many_references(files):
    with pytest.raises(DataError, match="no reference"):
        convert(edit(files.picture(1)), SETTINGS)
    with pytest.raises(DataError, match=r"more than 1 reference$"):
        convert(edit(files.picture(1), files.picture(2), files.picture(3)), SETTINGS)
    several = Conversion("x", None, max_references=2)
    assert len(convert(edit(files.picture(1), files.picture(2), files.picture(3)), several).references) == 2


def test_text_that_is_no_text(files):
    with pytest.raises(DataError, match=r"^text cannot be written as UTF-8$"):
        convert(Record("r", "g", "t2i", {"captions": ["\ud800"]}, files.picture(1)), SETTINGS)
