from pathlib import Path

import pytest

from unipic2_apps.ui import pieces
from unipic2_apps.ui.client import Model

WORDS = '<script>alert("x")</script>&'


@pytest.mark.parametrize(
    "made",
    [
        pieces.ready(WORDS),
        pieces.busy(WORDS, 0.5),
        pieces.done(WORDS),
        pieces.failed(WORDS),
        pieces.note(WORDS),
        pieces.talk([(WORDS, WORDS)], WORDS),
        pieces.talk([], WORDS),
        pieces.facts({WORDS: WORDS}),
        pieces.compare(Path("a"), Path(WORDS), WORDS),
        pieces.about(Model(WORDS, WORDS, frozenset({"generate"}), 8, 8)),
    ],
)
def test_words_are_no_html(made):
    assert "<script" not in made
    assert '"x"' not in made


def test_a_model_is_described():
    text = pieces.about(Model("m", "metaquery", frozenset({"generate", "edit", "ask"}), 768, 512))
    assert "draws, edits and answers questions" in text
    assert "768&times;512 px" in text
    assert "pixelated" not in text
    text = pieces.about(Model("m", "kontext", frozenset({"generate", "edit"}), 32, 32))
    assert "draws and edits" in text
    assert "pixelated" in text
    assert "</b> (x) draws &middot;" in pieces.about(Model("m", "x", frozenset({"generate"}), 32, 32))


def test_before_and_after_can_be_told_without_seeing(tmp_path):
    made = pieces.compare(tmp_path / "a.png", tmp_path / "b.png", "make it green")
    assert 'alt="Before"' in made
    assert 'alt="After: make it green"' in made
    assert 'type="range"' in made
    assert 'aria-label="Border between' in made
    assert "range" not in pieces.compare(None, tmp_path / "b.png")
