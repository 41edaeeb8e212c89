from collections import Counter

import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.full.prompts import HELD_OUT_TRIPLES
from unipic2_data.shapes.full.questions import AXIS_QUESTIONS, DISCIPLINES, draw_question
from unipic2_data.shapes.full.scene import COLORS, SHAPES
from unipic2_data.shapes.full.wording import HELD_OUT_QUESTION_PHRASINGS
from unipic2_data.shapes.scene import Draws

KINDS = [(split, None, discipline) for split in ("train", "test") for discipline in DISCIPLINES]
KINDS += [("heldout", axis, discipline) for axis, names in AXIS_QUESTIONS.items() for discipline in names]


def drawn(split, axis, discipline, count=8):
    return [draw_question(discipline, split, Draws(keyed_rng(n, f"{split} {discipline}")), axis) for n in range(count)]


def true(question, option):
    """Say whether an option is right, from the words and the scene alone."""
    things = Counter(item.shape for item in question.scene.items)
    words = question.text.rstrip("?").replace(",", "").split()
    shapes = [shape for word in words for shape in SHAPES if word in (shape, f"{shape}s", f"{shape}es")]
    if question.discipline == "exist":
        return tuple(option.split(" ")[1:]) in {(item.color, item.shape) for item in question.scene.items}
    if question.discipline == "count":
        return int(option) == (things[shapes[0]] if shapes else things.total())
    if question.discipline == "color":
        return [item.color for item in question.scene.items if item.shape == shapes[0]] == [option]
    if question.discipline == "shape":
        (color,) = (word for word in words if word in COLORS)
        named = option.split(" ")[1]
        return [item.shape for item in question.scene.items if item.color == color] == [named]
    first, second = shapes
    if question.discipline == "compare":
        a, b = things[first], things[second]
        if option.startswith("more"):
            return (a > b) if option in (f"more {first}s", f"more {first}es") else (b > a)
        return a == b and (a > 0) == (option == "as many of both")
    if question.text.startswith("Seen from"):
        first, second = second, first
    a, b = (next(item for item in question.scene.items if item.shape == shape) for shape in (first, second))
    dx, dy = a.x - b.x, a.y - b.y
    side = ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
    return option == f"{side} it"


@pytest.mark.parametrize(("split", "axis", "discipline"), KINDS)
def test_exactly_the_answer_is_right(split, axis, discipline):
    for question in drawn(split, axis, discipline):
        assert len(set(question.options)) == 4
        assert [option for option in question.options if true(question, option)] == [question.answer]
        assert question.scene.split == split
        assert question.scene.valid


def test_answers_stand_anywhere():
    questions = drawn("train", None, "color", 80)
    places = Counter(question.options.index(question.answer) for question in questions)
    assert min(places.values()) >= 8
    assert set(places) == {0, 1, 2, 3}


def test_held_out_relations_and_words_are_in_their_axes_alone():
    for axis in (None, "relation"):
        for question in drawn("train" if axis is None else "heldout", axis, "relation"):
            words = question.text.rstrip("?").replace(",", "").split()
            first, second = (word for word in words if word in SHAPES)
            triple = (first, question.answer.removesuffix(" it"), second)
            assert (triple in HELD_OUT_TRIPLES) == (axis == "relation")
    for discipline in DISCIPLINES:
        begins = HELD_OUT_QUESTION_PHRASINGS[discipline][0].split("{")[0]
        assert all(question.text.startswith(begins) for question in drawn("heldout", "phrasing", discipline, 3))
        assert not any(question.text.startswith(begins) for question in drawn("train", None, discipline, 8))


def test_many_and_count_are_about_such_scenes():
    assert all(len(question.scene.items) >= 5 for question in drawn("heldout", "many", "count"))
    assert all(question.scene.axes == {"count"} for question in drawn("heldout", "count", "compare"))
