"""The words and texts of the shapes world, for those who make a tokenizer or a text encoder for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.edits import EDIT_PHRASINGS, EDITS, HELD_OUT_EDIT_PHRASING, Edit, describe, draw_edit
from unipic2_data.shapes.prompts import PROMPTS, RELATIONS, TAGS, Prompt
from unipic2_data.shapes.scene import CELLS, COLORS, SHAPES, Draws
from unipic2_data.shapes.world import random_caption

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FACTS", "Reading", "example_readings", "vocabulary"]

_TEXT_TO_IMAGE = "text-to-image"
_Named = tuple[str | None, str | None, str | None]  # shape, colour and cell of an object, as far as a text names them
_NOTHING: _Named = (None, None, None)
_OBJECTS = 3
FACTS: dict[str, tuple[str | None, ...]] = {
    "task": (_TEXT_TO_IMAGE, *EDITS),
    "relation": (None, *RELATIONS),
    **{
        f"{name} {number}": (None, *options)
        for number in range(1, _OBJECTS + 1)
        for name, options in (("shape", SHAPES), ("color", COLORS), ("cell", CELLS))
    },
}
"""What a text can say: fact -> its possible values, None = not said.

An edit's object 1 is the one it names, its object 2 what that becomes or what is added.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A text and what it says.

    Attributes:
        text: Prompt, caption or instruction.
        facts: Position of the value of each of ``FACTS`` among its possible values.
    """

    text: str
    facts: tuple[int, ...]


def vocabulary() -> list[str]:
    """Return every word of every prompt, caption and instruction, held-out ones included; lower case, sorted."""
    texts = [prompt.text for tags in PROMPTS.values() for prompts in tags.values() for prompt in prompts]
    phrasings = [phrasing for edit in EDITS for phrasing in (*EDIT_PHRASINGS[edit], HELD_OUT_EDIT_PHRASING[edit])]
    texts.extend(phrasing.format(object="the", color="", shape="", cell="") for phrasing in phrasings)
    return sorted({word for text in (*texts, *CELLS, *COLORS, *SHAPES) for word in text.split()})


def example_readings(count: int, seed: int = 0) -> Iterator[Reading]:
    """Yield training texts with what they say: prompts, captions and twice as many edit instructions in turn."""
    draws = Draws(keyed_rng(seed, "example readings"))
    for index in range(count):
        turn = index % 4
        if turn == 0:
            yield read_prompt(draws.choice(PROMPTS["train"][draws.choice(TAGS)]))
        elif turn == 1:
            yield read_prompt(random_caption(draws)[0])
        else:
            yield read_edit(draw_edit(draws.choice(EDITS), "train", draws))


def read_prompt(prompt: Prompt) -> Reading:
    """Return what a prompt or caption says."""
    cells: list[str] | list[None] = [CELLS[cell] for cell in prompt.cells] or [None] * len(prompt.parts)
    objects: list[_Named] = [(shape, color, cell) for (shape, color), cell in zip(prompt.parts, cells, strict=True)]
    return _reading(prompt.text, _TEXT_TO_IMAGE, prompt.relation, objects)


def read_edit(edit: Edit) -> Reading:
    """Return what an instruction says: the object as it is named, and what the edit makes of it."""
    named = result = _NOTHING
    for item in set(edit.source.items) - set(edit.target.items):
        words = describe(item, edit.source)
        named = (
            item.shape,
            item.color if item.color in words.split() else None,
            CELLS[item.cell] if CELLS[item.cell] in words else None,
        )
    for item in set(edit.target.items) - set(edit.source.items):
        results: dict[str, _Named] = {
            "recolour": (None, item.color, None),
            "replace": (item.shape, None, None),
            "add": (item.shape, item.color, CELLS[item.cell]),
            "move": (None, None, CELLS[item.cell]),
        }
        result = results[edit.type]
    return _reading(edit.instruction, edit.type, None, [named, result])


def _reading(text: str, task: str, relation: str | None, objects: list[_Named]) -> Reading:
    padded = [*objects, *[_NOTHING] * (_OBJECTS - len(objects))]
    values = (task, relation, *(value for each in padded for value in each))
    return Reading(text, tuple(options.index(value) for options, value in zip(FACTS.values(), values, strict=True)))
