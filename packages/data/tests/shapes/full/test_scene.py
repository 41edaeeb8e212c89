from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.full.drawing import SCENE_AXES, belongs, random_scene
from unipic2_data.shapes.full.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    HELD_OUT_COUNTS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    Item,
    Scene,
    backgrounds_for,
    contrasts,
    neighbour,
    related_cells,
    resized,
)
from unipic2_data.shapes.scene import Draws


def scenes(count=300, axis=None):
    draws = Draws(keyed_rng(0, f"scenes {axis}"))
    return [random_scene(draws, axis) for _ in range(count)]


def test_colours_stand_out_from_each_other_and_from_some_background():
    for first, second in combinations(COLORS.values(), 2):
        assert np.linalg.norm(np.subtract(first, second)) >= 90
    for first, second in combinations(BACKGROUNDS.values(), 2):
        assert np.linalg.norm(np.subtract(first, second)) > 40  # a detector tells them apart within 20
    for color in COLORS:
        assert len(backgrounds_for([color])) >= 3
    assert backgrounds_for(COLORS)  # and from one all of them
    assert not contrasts("white", "white")


@pytest.mark.parametrize("axis", [None, "many"])
def test_objects_contrast_and_keep_their_distance(axis):
    for scene in scenes(axis=axis):
        assert scene.valid
        for item in scene.items:
            assert np.linalg.norm(np.subtract(COLORS[item.color], BACKGROUNDS[scene.background])) >= 90
            assert min(item.x, item.y) - item.r >= 1
            assert max(item.x, item.y) + item.r <= 63
        for a, b in combinations(scene.items, 2):
            gap = max(abs(a.x - b.x), abs(a.y - b.y)) - a.r - b.r
            assert gap >= 2


def test_number_of_objects():
    assert set(Counter(len(scene.items) for scene in scenes())) == {1, 2, 3, 4}
    assert set(Counter(len(scene.items) for scene in scenes(axis="many"))) == {5, 6}


def test_held_out_combinations_leave_everything_else_seen():
    assert len(HELD_OUT_PAIRS) == 10
    assert set(Counter(color for color, _ in HELD_OUT_PAIRS).values()) == {1}
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert max(Counter(shape for shape, _ in HELD_OUT_COUNTS).values()) == 1
    assert {count for _, count in HELD_OUT_COUNTS} == {2, 3, 4}


@pytest.mark.parametrize("axis", SCENE_AXES)
def test_axes_hold_scenes_out(axis):
    found = [scene for scene in scenes(axis=axis) if scene.axes == {axis}]
    assert len(found) > 100
    assert {scene.split for scene in found} == {"heldout"}
    assert belongs("heldout", axis, *found)
    assert not belongs("heldout", None, found[0])
    assert not belongs("train", axis, found[0])


def test_splits_by_graph_alone():
    shares = Counter(scene.split for scene in scenes(2000) if not scene.axes)
    assert shares["train"] / sum(shares.values()) == pytest.approx(0.74, abs=0.04)
    for scene in scenes(50):
        moved = tuple(Item(i.shape, i.color, i.cell, i.x + 0.125, i.y, 5.0) for i in reversed(scene.items))
        other = Scene(scene.background, moved, "inverted")
        assert (other.graph, other.split) == (scene.graph, scene.split)


def test_json_round_trip():
    for scene in scenes(20):
        data = scene.to_json()
        assert Scene.from_json(data) == scene
        for item, box in zip(scene.items, (item["box"] for item in data["items"]), strict=True):
            assert box[0] < item.x < box[2]
            assert box[1] < item.y < box[3]


def test_relations_of_cells():
    for a in range(9):
        for b in range(9):
            held = [relation for relation in RELATIONS if related_cells(relation, a, b)]
            same_line = a % 3 == b % 3 or a // 3 == b // 3
            assert len(held) == int(same_line and a != b)
    assert related_cells("left of", 3, 5)
    assert related_cells("below", 8, 2)
    assert CELLS[neighbour(4, "above")] == "top center"
    assert neighbour(0, "left of") is None


def test_resizing_keeps_within_the_cell():
    item = Item("circle", "red", 4, 32.0, 32.0, 6.0)
    assert resized(item, 1.3).r == 7.75
    assert resized(item, 0.7) is None  # too small
    assert resized(Item("circle", "red", 4, 34.0, 32.0, 6.5), 1.3) is None  # no room


def test_two_objects_in_a_cell_are_refused():
    item = Item("circle", "red", 4, 32.0, 32.0, 6.0)
    with pytest.raises(ValueError, match="at most one object"):
        Scene("white", (item, item))
