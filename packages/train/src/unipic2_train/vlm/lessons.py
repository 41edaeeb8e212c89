"""Lessons of a small vision-language model: what it is shown and asked, and what it should answer.

========  ==========================================================  =========================================
lesson    what it reads                                               answers
========  ==========================================================  =========================================
talk      a picture and several turns: questions, then its caption    the option's text, or the caption
edit      a picture and an instruction, as the queries' prompt        the caption of the edited picture
reading   a prompt or instruction alone, as the queries' prompt       what it says, word by word
========  ==========================================================  =========================================

Talk has the stock chat template, so that ``Understanding.ask`` is answered. The other two have the prompts that queries
follow later: what a frozen model has never read there, no connector can learn from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.edits import EDITS, draw_edit
from unipic2_data.shapes.full.wording import QUESTION_PHRASINGS, plural
from unipic2_data.shapes.grammar import FACTS, Reading, read_edit, read_prompt, vocabulary
from unipic2_data.shapes.prompts import PROMPTS, TAGS
from unipic2_data.shapes.scene import CELLS, SHAPES, Draws
from unipic2_data.shapes.world import random_caption, random_scene
from unipic2_train.vlm.questions import DISCIPLINES, Question, draw_question

if TYPE_CHECKING:
    from unipic2_data.shapes.scene import Scene

__all__ = ["Lesson", "draw_lesson", "question_lesson", "words"]

DESCRIBE = "Describe the picture."
ANSWERS = ("as many of both", "there are none", "more", "it", "objects")
GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, fill [0, 1) evenly: any few lessons in succession hold every kind."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One conversation.

    Attributes:
        key: Its name.
        kind: "talk", "edit" or "reading".
        scene: The picture, or ``None``.
        turns: What is said, and the answer to learn.
    """

    key: str
    kind: str
    scene: Scene | None
    turns: tuple[tuple[str, str], ...]


def draw_lesson(split: str, seed: int, index: int, shares: dict[str, float], num_turns: int) -> Lesson:
    """Draw a lesson, a function of its arguments alone.

    Args:
        split: Split of scenes and prompts.
        seed: Seed of the data.
        index: Number of the lesson.
        shares: Kind of lesson -> its share, in sum 1.
        num_turns: Turns of a talk, the caption's included.
    """
    key = f"lesson-{seed}-{split}-{index:08d}"
    draws = Draws(keyed_rng(seed, key))
    kind = _kind((index * GOLDEN) % 1.0, shares)
    if kind == "talk":
        scene = random_scene(draws, split)
        return Lesson(key, kind, scene, _turns(scene, draws, num_turns))
    if kind == "edit":
        edit = draw_edit(draws.choice(EDITS), split, draws)
        return Lesson(key, kind, edit.source, ((edit.instruction, _caption(edit.target)),))
    reading = _reading(split, draws)
    return Lesson(key, kind, None, ((reading.text, _said(reading)),))


def question_lesson(split: str, seed: int, index: int) -> tuple[Scene, Question]:
    """Draw a question about a scene of a split; disciplines come in turn."""
    draws = Draws(keyed_rng(seed, f"question-{split}-{index:08d}"))
    while True:
        scene = random_scene(draws, split)
        question = draw_question(DISCIPLINES[index % len(DISCIPLINES)], scene, draws)
        if question is not None:
            return scene, question


def words() -> list[str]:
    """Return every word of every lesson, sorted; those of prompts and instructions, held-out ones included."""
    texts = [DESCRIBE, *ANSWERS, *vocabulary(), *(plural(shape) for shape in SHAPES)]
    texts += [phrasing.format_map(_Nothing()) for phrasings in QUESTION_PHRASINGS.values() for phrasing in phrasings]
    texts += [value for values in FACTS.values() for value in values if value]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})


class _Nothing(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _kind(position: float, shares: dict[str, float]) -> str:
    for kind, share in shares.items():
        position -= share
        if position < 0:
            return kind
    return kind


def _turns(scene: Scene, draws: Draws, number: int) -> tuple[tuple[str, str], ...]:
    """Draw questions of different disciplines, then ask for the caption, so that no answer can copy from it.

    A caption says more of a picture than any answer, in fewer tokens: the vision tower learns from it. One talk in four
    is the caption alone, or nobody would ask for it first.
    """
    caption = (DESCRIBE, _caption(scene))
    if draws.below(4) == 0:
        return (caption,)
    drawn = (draw_question(discipline, scene, draws) for discipline in draws.sample(DISCIPLINES, len(DISCIPLINES)))
    questions = ((question.asked(), question.answer) for question in drawn if question)
    return (*islice(questions, number - 1), caption)  # drawn as far as they are asked


def _caption(scene: Scene) -> str:
    """Return what is where, in reading order."""
    return ", ".join(f"{item.color} {item.shape} {CELLS[item.cell]}" for item in scene.items)


def _reading(split: str, draws: Draws) -> Reading:
    """Draw a text with what it says: a prompt, a caption, or as often as both an instruction."""
    turn = draws.below(4)
    if turn == 0:
        return read_prompt(draws.choice(PROMPTS[split][draws.choice(TAGS)]))
    if turn == 1:
        return read_prompt(random_caption(draws)[0])
    return read_edit(draw_edit(draws.choice(EDITS), split, draws))


def _said(reading: Reading) -> str:
    """Return what a text states, object by object."""
    values = [options[value] for options, value in zip(FACTS.values(), reading.facts, strict=True)]
    return " ".join(value for value in values if value)
