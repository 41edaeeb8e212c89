"""Questions about scenes of the full world: six disciplines, four options each.

==========  ===========================================================
discipline  question
==========  ===========================================================
exist       which of four objects is there
count       how many objects of a shape, or objects at all
color       the colour of the only object of a shape
shape       the shape of the only object of a colour
relation    where one object lies relative to another
compare     of which of two shapes there are more
==========  ===========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_data.shapes.full.drawing import belongs, random_scene
from unipic2_data.shapes.full.prompts import HELD_OUT_TRIPLES
from unipic2_data.shapes.full.scene import COLORS, MAX_ITEMS, RELATIONS, SHAPES, Scene, related_cells
from unipic2_data.shapes.full.wording import HELD_OUT_QUESTION_PHRASINGS, QUESTION_PHRASINGS, plural, with_article

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unipic2_data.shapes.scene import Draws

__all__ = ["AXIS_QUESTIONS", "DISCIPLINES", "Question", "draw_question"]

DISCIPLINES = ("exist", "count", "color", "shape", "relation", "compare")
AXIS_QUESTIONS = {
    "pair": ("exist", "color", "shape"),
    "relation": ("relation",),
    "count": ("count", "compare"),
    "many": ("count", "compare", "exist"),
    "phrasing": DISCIPLINES,
}
"""Held-out axis -> the disciplines that have it."""
NUM_OPTIONS = 4
_TRIES = 12  # questions about one scene before another is drawn


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene: its words, four options in random order, and the right one of them."""

    discipline: str
    text: str
    options: tuple[str, ...]
    answer: str
    scene: Scene
    axis: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked, before it has words: the right answer and three or more wrong ones; the triple of a relation."""

    words: dict[str, str]
    answer: str
    wrong: Sequence[str]
    held_out: bool = False
    pair: bool = False


def draw_question(discipline: str, split: str, draws: Draws, axis: str | None = None) -> Question:
    """Draw a question about a scene of a split.

    Args:
        discipline: One of ``DISCIPLINES``.
        split: Split of the scene graph.
        draws: Random choices.
        axis: For the held-out split, one of ``AXIS_QUESTIONS``. "pair": the question is about a held-out pair;
            "relation": about a triple that training never names; "count" and "many": about such a scene; "phrasing":
            in words that training never shows.
    """
    phrasings = HELD_OUT_QUESTION_PHRASINGS if axis == "phrasing" else QUESTION_PHRASINGS
    while True:
        scene = random_scene(draws, axis)
        if not belongs(split, axis, scene):
            continue
        for _ in range(_TRIES):
            asked = _ASK[discipline](scene, draws)
            if asked is None or asked.held_out != (axis == "relation") or asked.pair != (axis == "pair"):
                continue
            options = draws.sample([asked.answer, *draws.sample(asked.wrong, NUM_OPTIONS - 1)], NUM_OPTIONS)
            text = draws.choice(phrasings[discipline]).format(**asked.words)
            return Question(discipline, text, tuple(options), asked.answer, scene, axis)


def _exist(scene: Scene, draws: Draws) -> _Asked:
    there = {(item.color, item.shape) for item in scene.items}
    item = draws.choice(scene.items)
    # Wrong options share a colour or a shape with what is there: to see one of the two is not enough.
    near = [(c, s) for c in COLORS for s in SHAPES if (c == item.color) != (s == item.shape) and (c, s) not in there]
    wrong = [with_article(f"{color} {shape}") for color, shape in near]
    return _Asked({}, with_article(f"{item.color} {item.shape}"), wrong, pair=item.held_out)


def _count(scene: Scene, draws: Draws) -> _Asked:
    shape = draws.choice((*SHAPES, *(item.shape for item in scene.items), "object"))
    number = sum(shape in {item.shape, "object"} for item in scene.items)
    numbers = [str(n) for n in range(MAX_ITEMS + 1) if n != number]
    return _Asked({"things": plural(shape)}, str(number), numbers)


def _color(scene: Scene, draws: Draws) -> _Asked | None:
    item = draws.choice(scene.items)
    if sum(other.shape == item.shape for other in scene.items) > 1:
        return None
    wrong = [color for color in COLORS if color != item.color]
    return _Asked({"object": f"the {item.shape}"}, item.color, wrong, pair=item.held_out)


def _shape(scene: Scene, draws: Draws) -> _Asked | None:
    item = draws.choice(scene.items)
    if sum(other.color == item.color for other in scene.items) > 1:
        return None
    wrong = [with_article(shape) for shape in SHAPES if shape != item.shape]
    return _Asked({"color": item.color}, with_article(item.shape), wrong, pair=item.held_out)


def _relation(scene: Scene, draws: Draws) -> _Asked | None:
    if len(scene.items) == 1:
        return None
    first, second = draws.sample(scene.items, 2)
    relation = next((r for r in RELATIONS if related_cells(r, first.cell, second.cell)), None)
    unique = all(sum(other.shape == item.shape for other in scene.items) == 1 for item in (first, second))
    if relation is None or not unique:
        return None
    words = {"object": f"the {first.shape}", "other": f"the {second.shape}"}
    held_out = (first.shape, relation, second.shape) in HELD_OUT_TRIPLES
    return _Asked(words, _side(relation), [_side(other) for other in RELATIONS if other != relation], held_out)


def _side(relation: str) -> str:
    return f"{relation} it"


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
