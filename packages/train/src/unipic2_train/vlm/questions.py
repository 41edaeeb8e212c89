"""Questions about scenes of the quick world: six disciplines, four options each, as in the full world.

==========  =====================================================================
discipline  question
==========  =====================================================================
exist       which of four objects is there
count       how many objects of a shape, or objects at all
color       the colour of the only object of a shape
shape       the shape of the only object of a colour
relation    where one object lies relative to another of the same row or column
compare     of which of two shapes there are more
==========  =====================================================================

The words are those of the full world (`unipic2_data.shapes.full.wording`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_data.shapes.full.wording import QUESTION_PHRASINGS, plural, with_article
from unipic2_data.shapes.prompts import RELATIONS
from unipic2_data.shapes.scene import COLORS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unipic2_data.shapes.scene import Draws, Scene

__all__ = ["DISCIPLINES", "Question", "draw_question"]

DISCIPLINES = ("exist", "count", "color", "shape", "relation", "compare")
NUM_OPTIONS = 4
LETTERS = "ABCD"
MAX_ITEMS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene: its words, four options in random order, and the right one of them."""

    discipline: str
    text: str
    options: tuple[str, ...]
    answer: str

    def asked(self, turn: int = 0) -> str:
        """Return the question with its options, turned round ``turn`` times."""
        options = self.options[turn:] + self.options[:turn]
        return "\n".join([self.text, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True))])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked, before it has words: the right answer and three or more wrong ones."""

    words: dict[str, str]
    answer: str
    wrong: Sequence[str]


def draw_question(discipline: str, scene: Scene, draws: Draws) -> Question | None:
    """Draw a question about a scene.

    Args:
        discipline: One of ``DISCIPLINES``.
        scene: The scene.
        draws: Random choices.

    Returns:
        The question; ``None`` if this scene leaves nothing clear to ask.
    """
    asked = _ASK[discipline](scene, draws)
    if asked is None:
        return None
    options = draws.sample([asked.answer, *draws.sample(asked.wrong, NUM_OPTIONS - 1)], NUM_OPTIONS)
    text = draws.choice(QUESTION_PHRASINGS[discipline]).format(**asked.words)
    return Question(discipline, text, tuple(options), asked.answer)


def _exist(scene: Scene, draws: Draws) -> _Asked:
    there = {(item.color, item.shape) for item in scene.items}
    item = draws.choice(scene.items)
    # Wrong options share a colour or a shape with what is there: to see one of the two is not enough.
    near = [(c, s) for c in COLORS for s in SHAPES if (c == item.color) != (s == item.shape) and (c, s) not in there]
    wrong = [with_article(f"{color} {shape}") for color, shape in near]
    return _Asked({}, with_article(f"{item.color} {item.shape}"), wrong)


def _count(scene: Scene, draws: Draws) -> _Asked:
    shape = draws.choice((*SHAPES, *(item.shape for item in scene.items), "object"))
    number = sum(shape in {item.shape, "object"} for item in scene.items)
    numbers = [str(n) for n in range(MAX_ITEMS + 1) if n != number]
    return _Asked({"things": plural(shape)}, str(number), numbers)


def _color(scene: Scene, draws: Draws) -> _Asked | None:
    item = draws.choice(scene.items)
    if sum(other.shape == item.shape for other in scene.items) > 1:
        return None
    return _Asked({"object": f"the {item.shape}"}, item.color, [color for color in COLORS if color != item.color])


def _shape(scene: Scene, draws: Draws) -> _Asked | None:
    item = draws.choice(scene.items)
    if sum(other.color == item.color for other in scene.items) > 1:
        return None
    wrong = [with_article(shape) for shape in SHAPES if shape != item.shape]
    return _Asked({"color": item.color}, with_article(item.shape), wrong)


def _relation(scene: Scene, draws: Draws) -> _Asked | None:
    if len(scene.items) == 1:
        return None
    first, second = draws.sample(scene.items, 2)
    relation = next((name for name, cells in RELATIONS.items() if (first.cell, second.cell) in cells), None)
    unique = all(sum(other.shape == item.shape for other in scene.items) == 1 for item in (first, second))
    if relation is None or not unique:
        return None
    words = {"object": f"the {first.shape}", "other": f"the {second.shape}"}
    return _Asked(words, f"{relation} it", [f"{other} it" for other in RELATIONS if other != relation])


def _compare(scene: Scene, draws: Draws) -> _Asked:
    present = [item.shape for item in scene.items]
    first, second = draws.sample(dict.fromkeys((*present, *draws.sample(SHAPES, 2))), 2)
    a, b = present.count(first), present.count(second)
    things, others = plural(first), plural(second)
    answers = (f"more {things}", f"more {others}", "as many of both", "there are none")
    answer = answers[3] if a == b == 0 else answers[2] if a == b else answers[0] if a > b else answers[1]
    return _Asked({"things": things, "others": others}, answer, [other for other in answers if other != answer])


_ASK: dict[str, Callable[[Scene, Draws], _Asked | None]] = {
    "exist": _exist,
    "count": _count,
    "color": _color,
    "shape": _shape,
    "relation": _relation,
    "compare": _compare,
}
