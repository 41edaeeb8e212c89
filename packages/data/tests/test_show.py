import html
import re

import numpy as np
import pytest
from PIL import Image as Picture

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.sample import Image, Sample
from unipic2_data.show import choose, contact_sheet, page


def flat(value, shape=(40, 60)):
    return Image(encode_png(np.full((*shape, 3), value, np.uint8)))


LONG = "<b>bold</b> & long "
SAMPLES = [
    Sample(
        "e1",
        "edit",
        {"instruction": ["<b>bold</b> & long " * 30, "short"], "scores": {"sc": 7.25}},
        flat(200),
        [flat(90)],
    ),
    Sample("t1", "t2i", {"captions": ["caf\u00e9 \u732b"], "licence": "MIT", "task": "x"}, flat(150, (60, 20))),
    Sample("p1", "prompt", {"captions": ["only words"]}),
    Sample("q1", "qa", {"question": "what?", "answer": "that"}, None, [flat(30)]),
    Sample("b1", "t2i", {"captions": ["broken"]}, Image(b"no picture")),
    Sample("n1", "t2i", {}, flat(10)),
]


def test_the_draw_is_fixed_and_covers_kinds(world):
    first = choose(world.root, split="train", count=40, seed=1)
    assert len(first) == len({sample.key for sample in first}) == 40
    assert {sample.kind for sample in first} == {"t2i", "edit"}
    assert [sample.key for sample in first] == [
        sample.key for sample in choose(world.root, split="train", count=40, seed=1)
    ]
    assert [sample.key for sample in first] != [
        sample.key for sample in choose(world.root, split="train", count=40, seed=2)
    ]
    assert {sample.kind for sample in choose(world.root, split="test", kind="edit", count=9)} == {"edit"}
    assert len(choose(world.root, split="test", kind="edit", count=10_000)) == 240
    with pytest.raises(DataError, match="has no 'qa' samples"):
        choose(world.root, split="test", kind="qa")


def test_the_sheet_shows_every_picture(tmp_path):
    contact_sheet(SAMPLES, tmp_path / "sheet.png")
    with Picture.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    for value in (200, 90, 150, 30, 10):
        assert (pixels == value).all(-1).sum() > 60
    assert (pixels == (255, 0, 0)).all(-1).sum() > 1000  # the unreadable one
    contact_sheet(SAMPLES[:1], tmp_path / "one.png")
    with Picture.open(tmp_path / "one.png") as one:
        assert one.width < sheet.width


def test_small_pictures_are_enlarged_pixel_by_pixel(tmp_path):
    dots = np.zeros((32, 16, 3), np.uint8)
    dots[3, 5] = (0, 255, 0)
    contact_sheet([Sample("d", "t2i", {"captions": ["dots"]}, Image(encode_png(dots)))], tmp_path / "sheet.png")
    with Picture.open(tmp_path / "sheet.png") as sheet:
        assert (np.asarray(sheet) == (0, 255, 0)).all(-1).sum() == 36


def test_the_page_is_complete_and_escaped(tmp_path):
    page(SAMPLES, tmp_path / "index.html", "a <title>")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<article>") == len(SAMPLES)
    assert text.count("data:image/jpeg;base64,") == 5
    assert "<b>bold</b> &amp;" not in text
    assert html.escape(LONG) in text
    assert "<b>score sc</b> 7.25" in text
    assert "reference 0, 60 x 40" in text
    assert "target, unreadable" in text
    assert "caf\u00e9 \u732b" in text
    assert '"licence": "MIT"' in html.unescape(text)
    assert not re.search(r"(src|href)='?(http|file)", text)


def test_broken_text_does_not_stop_the_page(tmp_path):
    page([Sample("s", "prompt", {"captions": ["\ud800"]})], tmp_path / "index.html", "x")
    assert "<article>" in (tmp_path / "index.html").read_text(encoding="utf-8")
