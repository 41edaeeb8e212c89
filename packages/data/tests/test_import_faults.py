"""One import of everything that can be wrong: good samples stay, each fault is named, nothing else happens."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unipic2_data.adapters.formats import default_mappers
from unipic2_data.importer import import_source
from unipic2_data.verify import verify


def huge_png():
    """Return a PNG file of a hundred bytes that says that it has 2.5 billion pixels."""

    def chunk(name, payload):
        return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.fixture
def odd(tmp_path):
    """Good pictures that are not plain."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    rgb, grey = Image.fromarray(pixels), pixels[..., 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 8
    made = {
        "cmyk.jpg": lambda file: rgb.convert("CMYK").save(file),
        "deep.png": lambda file: Image.fromarray(grey).save(file),
        "alpha.png": lambda file: Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(file),
        "turned.jpg": lambda file: rgb.save(file, exif=exif),
    }
    for name, save in made.items():
        save(tmp_path / name)
    return {name: (tmp_path / name).read_bytes() for name in made}


def test_a_tar_full_of_faults(tmp_path, files, odd):
    good = files.picture(1)
    members = {f"odd-{n}.{name.split('.')[1]}": data for n, (name, data) in enumerate(odd.items())}
    members |= {f"odd-{n}.txt": "an odd picture" for n in range(len(odd))}
    members |= {"good.jpg": good, "good.txt": "a good picture"}
    broken = {
        "corrupt.jpg": (good[:300] + bytes(20) + good[-10:], "x"),
        "cut.jpg": (good[:400], "x"),
        "empty.jpg": (b"", "x"),
        "page.jpg": (b"<html>404</html>", "x"),
        "huge.png": (huge_png(), "x"),
        "latin.jpg": (good, "caf\u00e9".encode("latin-1")),
        "blank.jpg": (good, b"\n"),
    }
    for name, (picture, text) in broken.items():
        members |= {name: picture, f"{name.split('.')[0]}.txt": text}
    members |= {"mute.jpg": good, "last.txt": "cut off with the tar", "last.jpg": good * 20}
    tar = files.tar(tmp_path / "in" / "x.tar", members)
    data = tar.read_bytes()
    tar.write_bytes(data[: data.rindex(good) - 100])
    report = import_source(tmp_path / "in", tmp_path / "out", format="tar", validation_fraction=0)
    reasons = {one.name.split("/")[-1]: one.reason for one in report.skipped}
    cut_off = reasons.popitem()
    assert reasons == {
        "corrupt": "picture is unreadable",
        "cut": "picture is unreadable",
        "empty": "picture is empty",
        "page": "picture is unreadable",
        "huge": "picture is larger than any that is read",
        "latin": "member 'txt' is not UTF-8",
        "blank": "empty caption",
        "mute": "members or fields missing: txt",
        "last": "picture is cut off",
    }
    assert cut_off[1] == "tar is cut off"
    assert report.manifest.counts == {"train": {"t2i": 5}}
    assert verify(tmp_path / "out").damages == []


def test_rows_full_of_faults(tmp_path, files):
    for name, size in {"a.jpg": (40, 20), "b.jpg": (40, 20), "small.jpg": (20, 10), "tall.jpg": (20, 40)}.items():
        files.write(tmp_path / "in" / name, files.picture(len(name), size))
    files.write(tmp_path / "in" / "zero.jpg", b"")
    row = {"source": "a.jpg", "target": "b.jpg", "instruction": "x"}
    lines = [
        json.dumps(row).encode(),
        json.dumps(row | {"source": "small.jpg"}).encode(),
        json.dumps(row | {"source": "tall.jpg"}).encode(),
        json.dumps(row | {"source": "absent.jpg"}).encode(),
        json.dumps(row | {"source": None}).encode(),
        json.dumps(row | {"target": "zero.jpg"}).encode(),
        json.dumps(row | {"instruction": "\ud800"}).encode(),
        b'{"source": "a.jpg", "target": "b.jpg", "instruction": "caf\xe9"}',
        b'{"source": "a.jpg", "target": ',
        b"[" * 50_000,
    ]
    source = files.write(tmp_path / "in" / "edits.jsonl", b"\n".join(lines))
    report = import_source(source, tmp_path / "out", validation_fraction=0)
    assert {int(one.name.split(":")[1]): one.reason for one in report.skipped} == {
        3: "source and target have different aspect ratios",
        4: "picture is missing",
        5: "no picture in field 'source'",
        6: "picture is empty",
        7: "text cannot be written as UTF-8",
        8: "line is not UTF-8",
        9: "line is not a JSON object",
        10: "line is not a JSON object",
    }
    assert report.manifest.counts == {"train": {"edit": 2}}
    assert verify(tmp_path / "out").damages == []


def test_parquet_with_faults(tmp_path, files):
    good, broken = files.picture(1), files.picture(2)[:300]
    rows = [
        {"source": {"bytes": one}, "target": {"bytes": good}, "instruction": "x"} for one in (good, broken, b"", None)
    ]
    file = files.parquet(tmp_path / "in" / "a.parquet", rows)
    report = import_source(file, tmp_path / "out", format="parquet", validation_fraction=0)
    assert [one.reason for one in report.skipped] == [
        "picture is unreadable",
        "no picture in field 'source'",
        "no picture in field 'source'",
    ]
    assert default_mappers("parquet") == default_mappers("json")
