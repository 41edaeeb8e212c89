"""Flow-GRPO's rule, over a reader that really reads: it finds the letters of one font."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from unipic2_train.rewards import ocr
from unipic2_train.rewards.base import RewardRequest
from unipic2_train.rewards.ocr import OcrReward, edit_distance, quoted, text_score

LETTERS = "ABDEHNOPRT"
SIZE = (10, 14)  # of a letter's cell


def cell(letter):
    picture = Image.new("L", SIZE, 255)
    ImageDraw.Draw(picture).text((2, 1), letter, fill=0, font=ImageFont.load_default(size=10))
    return np.array(picture)


def drawn(text):
    """Return a picture of letters side by side, uint8 (H, W, 3)."""
    row = np.concatenate([cell(letter) for letter in text.ljust(6)], 1)
    return np.repeat(row[..., None], 3, 2)


class GlyphReader:
    """Reads pictures of `drawn`: each cell is the letter that it is most like, or a space."""

    def __init__(self):
        self.glyphs = {letter: cell(letter).astype(float) for letter in f"{LETTERS} "}

    def __call__(self, images):
        return [self.read(image[..., 0].astype(float)) for image in images]

    def read(self, image):
        cells = (image[:, left : left + SIZE[0]] for left in range(0, image.shape[1], SIZE[0]))
        return "".join(min(self.glyphs, key=lambda name: np.abs(self.glyphs[name] - part).mean()) for part in cells)


@pytest.fixture
def installed(monkeypatch):
    """A package that offers the reader."""
    point = EntryPoint("glyphs", f"{__name__}:GlyphReader", ocr.READER_GROUP)
    object.__setattr__(point, "dist", SimpleNamespace(name="glyph-reader", version="1.2"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: GlyphReader)
    monkeypatch.setattr(ocr, "entry_points", lambda group: [point] if group == ocr.READER_GROUP else [])


def asked(*rows):
    pictures = torch.from_numpy(np.stack([drawn(text) for _, text in rows]))
    return RewardRequest("t2i", pictures, [prompt for prompt, _ in rows], ["row"] * len(rows), [{}] * len(rows))


def test_what_is_read_is_scored(installed):
    reward = OcrReward("glyphs")
    assert reward.prepare() == ("glyphs", "glyph-reader 1.2")
    assert not reward.waits
    scores = reward(asked(('a sign "THEN"', "THEN"), ('a sign "then"', "THEN"), ('"THEN"', "TEN"), ('"A"', "TTTTT")))
    assert scores.tolist() == [1, 1, 0.75, 0]


def test_what_could_not_be_looked_at_has_no_score(installed, monkeypatch):
    monkeypatch.setattr(GlyphReader, "read", lambda self, image: None)
    assert OcrReward("glyphs")(asked(('"A"', "A"))).isnan().all()


def test_readers_that_are_not_there(installed):
    with pytest.raises(ValueError, match=r"no reader 'paddle' is installed .*; installed: glyphs\. A served model"):
        OcrReward("paddle").prepare()


@pytest.mark.parametrize(
    ("wanted", "read", "score"),
    [
        ("New York", "newyork", 1),
        ("New York", "Welcome to NEW YORK!", 1),
        ("abcd", "abxd", 0.75),
        ("abcd", "", 0),
        ("ab", "completely different", 0),
    ],
)
def test_the_rule(wanted, read, score):
    assert text_score(wanted, read) == score


@pytest.mark.parametrize(
    ("one", "other", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)]
)
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@pytest.mark.parametrize(
    ("prompt", "text"),
    [('a sign "Open" and "Shut"', "Open"), ("a sign \u201cOpen\u201d", "Open"), ('"" then "x y"', "x y")],
)
def test_quoted(prompt, text):
    assert quoted(prompt) == text


@pytest.mark.parametrize("prompt", ["a sign", 'one " alone', 'nothing "  "', "it's 'single'"])
def test_nothing_quoted(prompt):
    with pytest.raises(ValueError, match="no text in double quotes"):
        quoted(prompt)
