from collections import Counter

import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.scene import Draws, Item, Scene
from unipic2_data.shapes.world import random_scene
from unipic2_train.vlm.questions import DISCIPLINES, draw_question

SCENE = Scene(
    "white",
    (Item("circle", "red", 0, 8, 8, 6), Item("circle", "blue", 1, 24, 8, 6), Item("square", "red", 2, 8, 24, 6)),
)


def draws(number: int) -> Draws:
    return Draws(keyed_rng(0, f"test-{number}"))


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_one_option_of_four_is_right_and_every_place_comes(discipline):
    places = Counter()
    for number in range(80):
        question = draw_question(discipline, random_scene(draws(number), "train"), draws(-1 - number))
        if question is not None:
            assert len(set(question.options)) == 4
            places[question.options.index(question.answer)] += 1
    assert set(places) == {0, 1, 2, 3}


def answers(discipline: str, number: int = 60) -> dict[str, str]:
    """Return what is answered about the scene, by the question's words."""
    found = (draw_question(discipline, SCENE, draws(each)) for each in range(number))
    return {question.text: question.answer for question in found if question is not None}


def test_answers_are_those_of_the_scene():
    assert answers("count")["How many circles are there?"] == "2"
    assert answers("count")["How many objects are in the picture?"] == "3"
    assert answers("count")["How many triangles are there?"] == "0"
    assert answers("compare")["Are there more circles or more squares?"] == "more circles"
    assert answers("compare")["Which are more, squares or circles?"] == "more circles"
    assert set(answers("exist").values()) <= {"a red circle", "a blue circle", "a red square"}


def test_nothing_ambiguous_is_asked():
    """There are two circles and two red objects."""
    assert set(answers("color")) == {"What color is the square?", "Which color does the square have?"}
    assert set(answers("shape")) == {"What shape is the blue object?", "Which shape does the blue object have?"}
    assert answers("relation") == {}
    alone = Scene("white", SCENE.items[:1])
    assert draw_question("relation", alone, draws(0)) is None


def test_relations_are_seen_from_the_second_object():
    two = Scene("white", (SCENE.items[0], SCENE.items[2]))
    found = {
        question.text: question.answer
        for each in range(20)
        if (question := draw_question("relation", two, draws(each))) is not None
    }
    assert found["Where is the circle relative to the square?"] == "above it"
    assert found["Where does the square lie, seen from the circle?"] == "below it"


def test_options_are_turned_round():
    question = draw_question("exist", SCENE, draws(0))
    lines = [question.asked(turn).split("\n") for turn in range(4)]
    assert all(line[0] == question.text for line in lines)
    assert [line[1] for line in lines] == [f"A. {option}" for option in question.options]
    assert lines[1][4] == f"D. {question.options[0]}"
