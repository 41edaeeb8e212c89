import re

import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.full.edits import AXIS_EDITS, EDITS, HELD_OUT_EDITS, describe, draw_edit
from unipic2_data.shapes.full.render import render
from unipic2_data.shapes.full.scene import BACKGROUNDS, CELLS, COLORS, RELATIONS, SHAPES, Item, Scene, neighbour
from unipic2_data.shapes.full.wording import EDIT_PHRASINGS, HELD_OUT_EDIT_PHRASINGS
from unipic2_data.shapes.scene import Draws

WORDS = {
    "color": "|".join(COLORS),
    "shape": f"an? (?:{'|'.join(SHAPES)})",
    "new": f"an? (?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})",
    "cell": "|".join(sorted(CELLS, key=len, reverse=True)),
    "ground": "|".join(BACKGROUNDS),
    "relation": "|".join(RELATIONS),
    "object": f"the (?:(?:{'|'.join((*CELLS, *COLORS))}) )?(?:{'|'.join(SHAPES)})",
}
WORDS["other"] = WORDS["object"]
KINDS = [(split, None, edit) for split in ("train", "test") for edit in EDITS]
KINDS += [("heldout", axis, edit) for axis, edits in AXIS_EDITS.items() for edit in edits]


def drawn(split, axis, edit_type, count=None):
    count = count or (2 if split == "heldout" else 5)  # few scenes are held out by their hash: they take long to find
    return [draw_edit(edit_type, split, Draws(keyed_rng(n, f"{split} {edit_type}")), axis) for n in range(count)]


def parse(text):
    """Read one instruction back, knowing the grammar alone."""
    for phrasings in (EDIT_PHRASINGS, HELD_OUT_EDIT_PHRASINGS):
        for kind, patterns in phrasings.items():
            for phrasing in patterns:
                pattern = re.sub(r"\{(\w+)\}", lambda field: f"(?P<{field[1]}>{WORDS[field[1]]})", phrasing)
                if match := re.fullmatch(pattern, text):
                    return kind, match.groupdict()
    raise AssertionError(text)


def find(graph, words):
    """Return the cell of the only object that a description names."""
    *attribute, shape = words.removeprefix("the ").rsplit(" ", 1)
    hits = [
        cell
        for cell, (named, color, _) in graph.items()
        if named == shape and (not attribute or attribute[0] in (color, CELLS[cell]))
    ]
    assert len(hits) == 1, (graph, words)
    return hits[0]


def apply(text, ground, style, graph):
    """Carry out one instruction on a scene: background, style and {cell: (shape, colour, radius)}."""
    kind, words = parse(text)
    if kind == "background":
        return words["ground"], style, graph
    if kind in ("grayscale", "inverted", "outline"):
        return ground, kind, graph
    if kind == "add":
        _, color, shape = words["new"].split(" ")
        assert CELLS.index(words["cell"]) not in graph
        return ground, style, graph | {CELLS.index(words["cell"]): (shape, color, None)}
    cell = find(graph, words["object"])
    shape, color, r = graph[cell]
    rest = {other: thing for other, thing in graph.items() if other != cell}
    if kind == "extract":
        return "white", style, {cell: graph[cell]}
    if kind == "remove":
        return ground, style, rest
    if kind.startswith("move"):
        to = (
            neighbour(find(graph, words["other"]), words["relation"])
            if "other" in words
            else CELLS.index(words["cell"])
        )
        assert to not in graph
        return ground, style, rest | {to: (shape, color, r)}
    if kind == "replace":
        shape = words["shape"].split(" ")[1]
    elif kind == "recolour":
        color = words["color"]
    else:
        r *= 1.3 if kind == "bigger" else 1 / 1.3
    return ground, style, rest | {cell: (shape, color, r)}


@pytest.mark.parametrize(("split", "axis", "edit_type"), KINDS)
def test_the_instruction_determines_the_target(split, axis, edit_type):
    for edit in drawn(split, axis, edit_type):
        ground, style = edit.source.background, "plain"
        graph = {item.cell: (item.shape, item.color, item.r) for item in edit.source.items}
        parts = edit.instruction.split(" and ")
        assert len(parts) == (2 if edit_type == "compose" else 1)
        for part in parts:
            ground, style, graph = apply(part, ground, style, graph)
        assert (edit.target.background, edit.target.style) == (ground, style)
        assert {item.cell for item in edit.target.items} == set(graph)
        for item in edit.target.items:
            shape, color, r = graph[item.cell]
            assert (item.shape, item.color) == (shape, color)
            assert r is None or item.r == pytest.approx(r, abs=0.07)
        assert edit.source.valid
        assert edit.target.valid
        assert edit.source.split == edit.target.split == split


@pytest.mark.parametrize("edit_type", EDITS)
def test_pictures_differ_by_the_edit_alone(edit_type):
    for edit in drawn("train", None, edit_type):
        before, after = (render(scene, 64).astype(int) for scene in (edit.source, edit.target))
        changed = np.abs(before - after).max(-1) > 12
        assert changed.sum() >= 12
        if edit_type in ("background", "style", "extract"):
            continue
        for item in set(edit.source.items) & set(edit.target.items):
            left, top, right, bottom = (round(edge) for edge in item.box)
            assert not changed[top - 1 : bottom + 1, left - 1 : right + 1].any()


@pytest.mark.parametrize("edit_type", AXIS_EDITS["attribute"])
def test_held_out_attributes_are_in_the_held_out_edits_alone(edit_type):
    attributes = set(HELD_OUT_EDITS.values())
    for edit in drawn("heldout", "attribute", edit_type):
        changed = set(edit.source.items) ^ set(edit.target.items) or set(edit.target.items)
        named = {word for item in changed for word in (item.shape, item.color)} | {edit.target.background}
        assert named & attributes
    for edit in drawn("train", None, edit_type):
        for text in edit.instruction.split(" and "):
            kind, words = parse(text)
            said = {"add": "new", "replace": "shape", "recolour": "color", "background": "ground"}.get(kind, "object")
            if kind in ("add", "replace", "recolour", "background", "remove", "extract", "move to", "move by"):
                held_out = HELD_OUT_EDITS.get(kind.partition(" ")[0])
                assert words[said].split(" ")[-1] != held_out
                assert words[said] != held_out


def test_pairs_are_what_the_edit_is_about():
    for edit_type in AXIS_EDITS["pair"]:
        for edit in drawn("heldout", "pair", edit_type, 4):
            changed = set(edit.source.items) ^ set(edit.target.items)
            touched = changed if edit_type != "extract" else set(edit.target.items)
            assert any(item.held_out for item in touched)


def test_descriptions_are_the_shortest_unique_ones():
    circle, other = Item("circle", "red", 0, 11, 11, 6), Item("circle", "green", 1, 32, 11, 6)
    twin, square = Item("circle", "red", 4, 32, 32, 6), Item("square", "red", 2, 53, 11, 6)
    assert describe(circle, Scene("white", (circle, square))) == "the circle"
    assert describe(circle, Scene("white", (circle, other))) == "the red circle"
    assert describe(twin, Scene("white", (circle, twin, other))) == "the center circle"
