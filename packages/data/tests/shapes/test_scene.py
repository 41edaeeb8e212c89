from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.scene import (
    BACKGROUNDS,
    CELL_UNITS,
    COLORS,
    HELD_OUT_PAIRS,
    SHAPES,
    SPLITS,
    Draws,
    Item,
    Scene,
    random_item,
    split_of,
)


def items(count: int = 400) -> list[Item]:
    draws = Draws(keyed_rng(0, "items"))
    return [random_item(draws, draws.choice(SHAPES), draws.choice(list(COLORS)), n % 4) for n in range(count)]


def test_colours_stand_out():
    for color in COLORS.values():
        for background in BACKGROUNDS.values():
            assert np.linalg.norm(np.subtract(color, background)) >= 90
    for first, second in combinations(COLORS.values(), 2):
        assert np.linalg.norm(np.subtract(first, second)) >= 90


def test_held_out_pairs_leave_every_colour_and_shape_seen():
    assert len(HELD_OUT_PAIRS) == 3
    assert set(Counter(color for color, _ in HELD_OUT_PAIRS).values()) == {1}
    assert set(Counter(shape for _, shape in HELD_OUT_PAIRS).values()) == {1}


def test_objects_lie_within_their_cells():
    for item in items():
        left, top = item.cell % 2 * CELL_UNITS, item.cell // 2 * CELL_UNITS
        assert 5 <= item.r <= 7
        assert left + 1 <= item.x - item.r
        assert item.x + item.r <= left + CELL_UNITS - 1
        assert top + 1 <= item.y - item.r
        assert item.y + item.r <= top + CELL_UNITS - 1
    assert len({item.x for item in items() if item.cell == 0}) > 20


def test_the_graph_ignores_jitter_and_order():
    first, second = items(2)
    scene = Scene("white", (first, second))
    jittered = Scene("white", (second, replace(first, x=first.x + 0.5, r=5.0)))
    assert scene.graph == jittered.graph
    assert scene.split == jittered.split
    assert scene.graph != Scene("gray", scene.items).graph
    assert scene.graph != Scene("white", (first,)).graph


def test_two_objects_in_a_cell_are_refused():
    item = items(1)[0]
    with pytest.raises(ValueError, match="at most one object"):
        Scene("white", (item, item))


def test_json_round_trip():
    scene = Scene("mint", tuple(items(3)))
    assert Scene.from_json(scene.to_json()) == scene


def test_a_moved_object_keeps_its_place_in_the_cell():
    item = items(1)[0]
    moved = item.moved_to(3)
    assert (moved.x - 24, moved.y - 24) == (item.x - 8, item.y - 8)
    assert moved.moved_to(0) == item


def test_shares_of_splits():
    shares = {"train": 0.7, "test": 0.3}
    counts = Counter(split_of("scene", str(n), shares) for n in range(4000))
    assert abs(counts["test"] / 4000 - 0.3) < 0.03
    other = [split_of("prompt", str(n), shares) for n in range(200)]
    assert other != [split_of("scene", str(n), shares) for n in range(200)]


def test_held_out_pairs_are_held_out():
    color, shape = next(iter(HELD_OUT_PAIRS))
    draws = Draws(keyed_rng(0, "x"))
    assert {Scene("white", (random_item(draws, shape, color, cell),)).split for cell in range(4)} == {"heldout"}
    assert set(SPLITS) == {"train", "validation", "test", "heldout"}
