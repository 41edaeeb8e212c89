import re

import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.edits import EDIT_PHRASINGS, EDITS, HELD_OUT_EDIT_PHRASING, describe, draw_edit
from unipic2_data.shapes.render import render
from unipic2_data.shapes.scene import CELLS, COLORS, SHAPES, Draws, Item, Scene, held_out

OPTIONS = {"color": "|".join(COLORS), "shape": "|".join(SHAPES), "cell": "|".join(CELLS), "object": "the .+?"}


def draw(edit_type, number, split="train", axis=None):
    return draw_edit(edit_type, split, Draws(keyed_rng(number, edit_type)), axis)


def parse(edit):
    """Read the instruction back, knowing the grammar alone."""
    for phrasing in (*EDIT_PHRASINGS[edit.type], HELD_OUT_EDIT_PHRASING[edit.type]):
        pattern = re.sub(r"\{(\w+)\}", lambda field: f"(?P<{field[1]}>{OPTIONS[field[1]]})", phrasing)
        if match := re.fullmatch(pattern, edit.instruction):
            return match.groupdict()
    raise AssertionError(edit.instruction)


def apply(edit):
    """Carry out the instruction on the source's scene graph."""
    words = parse(edit)
    graph = {item.cell: (item.shape, item.color) for item in edit.source.items}
    if edit.type == "add":
        cell = CELLS.index(words["cell"])
        assert cell not in graph
        return graph | {cell: (words["shape"], words["color"])}
    named = words["object"].removeprefix("the ")
    hits = [
        cell for cell, (shape, color) in graph.items() if named in {shape, f"{color} {shape}", f"{CELLS[cell]} {shape}"}
    ]
    assert len(hits) == 1, edit
    shape, color = graph.pop(hits[0])
    if edit.type == "move":
        assert CELLS.index(words["cell"]) not in graph
        graph[CELLS.index(words["cell"])] = shape, color
    elif edit.type == "recolour":
        graph[hits[0]] = shape, words["color"]
    elif edit.type == "replace":
        graph[hits[0]] = words["shape"], color
    return graph


@pytest.mark.parametrize("edit_type", EDITS)
@pytest.mark.parametrize(
    ("split", "axis", "count"), [("train", None, 150), ("test", None, 20), ("heldout", "phrasing", 10)]
)
def test_the_instruction_determines_the_target(edit_type, split, axis, count):
    for number in range(count):
        edit = draw(edit_type, number, split, axis)
        assert {item.cell: (item.shape, item.color) for item in edit.target.items} == apply(edit)
        assert edit.source.background == edit.target.background
        assert edit.source.graph != edit.target.graph
        assert 1 <= len(edit.target.items) <= 3
        assert edit.source.split == edit.target.split == split
        assert len(edit.instruction.split()) <= 12


@pytest.mark.parametrize("size", [32, 128])
def test_untouched_cells_are_pixel_identical(size):
    half = size // 2
    for number in range(30):
        for edit_type in EDITS:
            edit = draw(edit_type, number)
            before, after = render(edit.source, size), render(edit.target, size)
            graphs = [{item.cell: item.graph for item in scene.items} for scene in (edit.source, edit.target)]
            changed = {cell for cell in range(4) if graphs[0].get(cell) != graphs[1].get(cell)}
            assert len(changed) == (2 if edit_type == "move" else 1)
            for cell in range(4):
                part = slice(cell // 2 * half, (cell // 2 + 1) * half), slice(cell % 2 * half, (cell % 2 + 1) * half)
                assert np.array_equal(before[part], after[part]) == (cell not in changed)


def test_held_out_pairs_are_what_the_edit_is_about():
    for number in range(10):
        for edit_type in EDITS:
            edit = draw(edit_type, number, "heldout", "pair")
            before, after = set(edit.source.items), set(edit.target.items)
            assert held_out(before ^ after)
            assert edit.source.split == edit.target.split == "heldout"


def test_descriptions_are_the_shortest_unique_ones():
    circle, other = Item("circle", "red", 0, 8, 8, 5), Item("circle", "green", 1, 24, 8, 5)
    twin, square = Item("circle", "red", 3, 24, 24, 5), Item("square", "red", 2, 8, 24, 5)
    assert describe(circle, Scene("white", (circle, square))) == "the circle"
    assert describe(circle, Scene("white", (circle, other))) == "the red circle"
    assert describe(circle, Scene("white", (circle, twin))) == "the top left circle"
    assert describe(twin, Scene("white", (circle, twin, other))) == "the bottom right circle"
