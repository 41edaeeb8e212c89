"""Edits of the shapes world: recolour, replace, remove, add, move.

Each instruction fully determines the target's scene graph: objects are named by their shortest unique description, add
and move name a cell, a replaced or recoloured object stays where it is. Untouched objects keep their very pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unipic2_data.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    HELD_OUT_PAIRS,
    SHAPES,
    Draws,
    Item,
    Scene,
    held_out,
    random_item,
)

__all__ = ["EDITS", "EDIT_PHRASINGS", "HELD_OUT_EDIT_PHRASING", "Edit", "describe", "draw_edit", "random_scene_for"]

EDITS = ("recolour", "replace", "remove", "add", "move")
EDIT_PHRASINGS = {
    "recolour": ("make {object} {color}", "paint {object} {color}", "turn {object} {color}"),
    "replace": ("replace {object} with a {shape}", "turn {object} into a {shape}", "change {object} into a {shape}"),
    "remove": ("remove {object}", "delete {object}", "take away {object}"),
    "add": (
        "add a {color} {shape} at the {cell}",
        "put a {color} {shape} at the {cell}",
        "draw a {color} {shape} at the {cell}",
    ),
    "move": ("move {object} to the {cell}", "shift {object} to the {cell}", "bring {object} to the {cell}"),
}
HELD_OUT_EDIT_PHRASING = {  # known words in a new order
    "recolour": "change {object} into {color}",
    "replace": "make {object} a {shape}",
    "remove": "take {object} away",
    "add": "at the {cell} add a {color} {shape}",
    "move": "put {object} at the {cell}",
}
_MAX_ITEMS = 3
_CHANGES_PER_SOURCE = 8  # tries before another source is drawn: a rare split accepts few targets


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: its type and instruction, the scene before and after, and the held-out axis it tests, if any."""

    type: str
    instruction: str
    source: Scene
    target: Scene
    axis: str | None = None


def describe(item: Item, scene: Scene) -> str:
    """Return the shortest description that names only this object of the scene."""
    same_shape = [other for other in scene.items if other.shape == item.shape]
    if len(same_shape) == 1:
        return f"the {item.shape}"
    if sum(other.color == item.color for other in same_shape) == 1:
        return f"the {item.color} {item.shape}"
    return f"the {CELLS[item.cell]} {item.shape}"


def draw_edit(edit_type: str, split: str, draws: Draws, axis: str | None = None) -> Edit:
    """Draw an edit whose source and target both belong to a split.

    Args:
        edit_type: One of ``EDITS``.
        split: Split of both scene graphs.
        draws: Random choices.
        axis: For the held-out split: "pair" (the edited object is a held-out pair before or after the edit) or
            "phrasing" (the instruction has a phrasing that training never shows).
    """
    want_pair = axis == "pair"
    phrasings = (HELD_OUT_EDIT_PHRASING[edit_type],) if axis == "phrasing" else EDIT_PHRASINGS[edit_type]
    while True:
        source = random_scene_for(edit_type, draws, allow_pairs=want_pair)
        if source.split != split:
            continue
        for _ in range(_CHANGES_PER_SOURCE):
            item, changed = _change(edit_type, source, draws)
            if held_out(_present(item, changed)) != want_pair:
                continue
            items = [other for other in source.items if other is not item] + _present(changed)
            target = Scene(source.background, tuple(items))
            if target.split == split:
                instruction = _instruct(draws.choice(phrasings), source, item, changed)
                return Edit(edit_type, instruction, source, target, axis)


def _instruct(phrasing: str, source: Scene, item: Item | None, changed: Item | None) -> str:
    result = changed or item
    assert result is not None
    name = describe(item, source) if item else ""
    return phrasing.format(object=name, color=result.color, shape=result.shape, cell=CELLS[result.cell])


def _present(*items: Item | None) -> list[Item]:
    return [item for item in items if item is not None]


def random_scene_for(edit_type: str, draws: Draws, *, allow_pairs: bool) -> Scene:
    """Return a scene of 1-3 objects to which the edit can be done, of any split."""
    low = 2 if edit_type == "remove" else 1
    high = _MAX_ITEMS - 1 if edit_type == "add" else _MAX_ITEMS
    count = low + draws.below(high - low + 1)
    pairs = _ALL_PAIRS if allow_pairs else _SEEN_PAIRS
    cells = draws.sample(range(len(CELLS)), count)
    items = [random_item(draws, shape, color, cell) for cell in cells for shape, color in [draws.choice(pairs)]]
    return Scene(draws.choice(_BACKGROUNDS), tuple(items))


def _change(edit_type: str, scene: Scene, draws: Draws) -> tuple[Item | None, Item | None]:
    """Return the object to edit (None: a new one) and what it becomes (None: nothing)."""
    if edit_type == "add":
        shape, color = draws.choice(_ALL_PAIRS)
        return None, random_item(draws, shape, color, draws.choice(scene.free_cells))
    item: Item = draws.choice(scene.items)
    if edit_type == "remove":
        return item, None
    if edit_type == "move":
        return item, item.moved_to(draws.choice(scene.free_cells))
    if edit_type == "recolour":
        return item, replace(item, color=draws.choice([color for color in COLORS if color != item.color]))
    return item, replace(item, shape=draws.choice([shape for shape in SHAPES if shape != item.shape]))


_BACKGROUNDS = tuple(BACKGROUNDS)
_ALL_PAIRS = tuple((shape, color) for shape in SHAPES for color in COLORS)
_SEEN_PAIRS = tuple((shape, color) for shape, color in _ALL_PAIRS if (color, shape) not in HELD_OUT_PAIRS)
