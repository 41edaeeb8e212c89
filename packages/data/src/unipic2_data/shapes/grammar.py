"""The words and texts of the shapes world, for those who make a tokenizer for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.edits import EDIT_PHRASINGS, EDITS, HELD_OUT_EDIT_PHRASING, draw_edit
from unipic2_data.shapes.prompts import PROMPTS, TAGS
from unipic2_data.shapes.scene import CELLS, COLORS, SHAPES, Draws
from unipic2_data.shapes.world import random_caption

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["example_texts", "vocabulary"]


def vocabulary() -> list[str]:
    """Return every word of every prompt, caption and instruction, held-out ones included; lower case, sorted."""
    texts = [prompt.text for tags in PROMPTS.values() for prompts in tags.values() for prompt in prompts]
    phrasings = [phrasing for edit in EDITS for phrasing in (*EDIT_PHRASINGS[edit], HELD_OUT_EDIT_PHRASING[edit])]
    texts.extend(phrasing.format(object="the", color="", shape="", cell="") for phrasing in phrasings)
    return sorted({word for text in (*texts, *CELLS, *COLORS, *SHAPES) for word in text.split()})


def example_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Yield texts as training shows them: prompts, full captions and edit instructions in turn."""
    draws = Draws(keyed_rng(seed, "example texts"))
    for index in range(count):
        turn = index % 3
        if turn == 0:
            yield draws.choice(PROMPTS["train"][draws.choice(TAGS)]).text
        elif turn == 1:
            yield random_caption(draws)[0].text
        else:
            yield draw_edit(draws.choice(EDITS), "train", draws).instruction
