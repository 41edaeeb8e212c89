"""The page is one file of well-formed HTML, shows what changed, and escapes what models wrote."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from unipic2_evals.compare import Change, Comparison, Difference
from unipic2_evals.page import comparison_page
from unipic2_evals.report import Interval

VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def comparison(tmp_path):
    for name, side in (("s", 300), ("a", 300), ("b", 20)):
        Image.new("RGB", (side, side), (200, 30, 30)).save(tmp_path / f"{name}.png")

    def row(name, reason=""):
        images = [str(tmp_path / "s.png"), str(tmp_path / f"{name}.png")] if name else []
        return {"key": "k<1>", "prompt": "a <b>cat</b>", "group": "g", "reason": reason, "images": images}

    changes = [Change(row("a", "expected <cat>"), row("b"), 0.0, 1.0), Change(row("a"), row(""), 1.0, 0.0)]
    difference = Difference("overall", 0.25, 0.5, Interval(0.25, 0.1, 0.4, 8), 8, 0, 0)
    return Comparison("geneval", "j (r)", "official quirks kept: none", [difference], changes)


def test_page(comparison):
    text = comparison_page(comparison, ("one", "two & a half"), most=10)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "2 items changed: 1 up, 1 down; 2 shown" in text
    assert "0.250 [0.100, 0.400]" in text
    assert "two &amp; a half" in text
    assert "<cat>" not in text
    assert "<b>cat" not in text
    assert text.count("no image") == 1
    sizes = []
    for source in tags.images:
        data = base64.b64decode(re.fullmatch(r"data:image/(?:png|webp);base64,(.+)", source)[1])
        with Image.open(io.BytesIO(data)) as image:
            sizes.append(image.size[0])
    assert sizes == [256, 256, 20, 256, 256]  # source, A, B; source, A


def test_no_more_than_wanted(comparison):
    assert comparison_page(comparison, ("one", "two"), most=1).count("<article>") == 1
