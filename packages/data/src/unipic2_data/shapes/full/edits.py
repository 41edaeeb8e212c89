"""Edits of the full world: ImgEdit's nine types, each fully determined by its instruction.

Objects are named by their shortest unique description; add and action name a cell, or the cell next to another object;
bigger and smaller change the radius by a fixed factor. Untouched objects keep their very pixels.

==========  ======================================================================
type        what changes
==========  ======================================================================
add         a new object at a named cell
remove      an object goes
replace     an object gets another shape
adjust      an object gets another colour, or becomes bigger or smaller
background  the ground gets another colour
style       the whole picture becomes grayscale, inverted, or outlines
extract     one object stays, on white
action      an object moves to a named cell, or next to another object
compose     two of add, remove, replace, adjust's colours and action, to two objects
==========  ======================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unipic2_data.shapes.full.drawing import belongs, color_for, random_scene, unseen_pair
from unipic2_data.shapes.full.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    MANY,
    MAX_ITEMS,
    RELATIONS,
    SHAPES,
    STYLES,
    Item,
    Scene,
    neighbour,
    random_item,
    resized,
)
from unipic2_data.shapes.full.wording import EDIT_PHRASINGS, HELD_OUT_EDIT_PHRASINGS, with_article

if TYPE_CHECKING:
    from unipic2_data.shapes.scene import Draws

__all__ = ["AXIS_EDITS", "EDITS", "HELD_OUT_EDITS", "Edit", "describe", "draw_edit"]

EDITS = ("add", "remove", "replace", "adjust", "background", "style", "extract", "action", "compose")
HELD_OUT_EDITS = {
    "add": "bar",
    "remove": "ring",
    "replace": "diamond",
    "recolour": "purple",
    "background": "light green",
    "extract": "triangle",
    "move": "L",
}
"""What is done -> the attribute that training never sees it with: the shape or colour that comes, goes or stays."""
_OBJECT_EDITS = ("add", "remove", "replace", "adjust", "extract", "action", "compose")
AXIS_EDITS = {
    "pair": _OBJECT_EDITS,
    "count": ("add", "replace", "adjust", "background", "action"),
    "many": EDITS,
    "attribute": ("add", "remove", "replace", "adjust", "background", "extract", "action", "compose"),
    "phrasing": EDITS,
}
"""Held-out axis -> the types of edits that have it."""
_COMPOSED = ("add", "remove", "replace", "recolour", "move")
_COLORLESS = frozenset({"white", "gray", "black"})  # grayscale would change nothing
_FACTOR = 1.3  # of the radius, when an object becomes bigger
_TRIES = 12  # changes of one source before another is drawn


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: its type and instruction, the scene before and after, and the held-out axis it tests, if any."""

    type: str
    instruction: str
    source: Scene
    target: Scene
    axis: str | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """One thing that is done to a scene: which words say it, the object before and after, the attribute it is about."""

    kind: str
    words: dict[str, str]
    before: Item | None = None
    after: Item | None = None
    attribute: str = ""

    @property
    def held_out(self) -> bool:
        """Whether training never sees this done with this attribute."""
        return HELD_OUT_EDITS.get(self.kind.partition(" ")[0]) == self.attribute


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
        axis: For the held-out split, one of ``AXIS_EDITS``. "pair": the edited object is a held-out pair before or
            after; "count" and "many": the source or the target is; "attribute": what is done is never trained on with
            this attribute; "phrasing": the instruction has a phrasing that training never shows.
    """
    low = 2 if edit_type in {"remove", "extract", "compose"} else 1
    high = MANY - 2 if edit_type == "add" else MANY - 1
    source_axis = None if axis == "pair" and edit_type == "add" else axis
    while True:
        source = random_scene(draws, source_axis, low, high)
        if not belongs(split, source_axis, source):
            continue
        for _ in range(_TRIES):
            drawn = _draw(edit_type, source, draws, axis)
            if drawn is None:
                continue
            changes, target = drawn
            if not _fits(changes, axis) or not belongs(split, axis, source, target):
                continue
            return Edit(edit_type, _instruct(changes, axis, draws), source, target, axis)


def _fits(changes: list[_Change], axis: str | None) -> bool:
    """Whether the changes are about what the axis holds out, and about nothing else that is."""
    touched = [item for change in changes for item in (change.before, change.after) if item is not None]
    return any(change.held_out for change in changes) == (axis == "attribute") and unseen_pair(touched) == (
        axis == "pair"
    )


def _draw(edit_type: str, source: Scene, draws: Draws, axis: str | None) -> tuple[list[_Change], Scene] | None:
    """Draw changes to a scene, and what they make of it; None if there was no room for them."""
    if edit_type == "background":
        ground = draws.choice([ground for ground in BACKGROUNDS if ground != source.background])
        return [_Change("background", {"ground": ground}, attribute=ground)], replace(source, background=ground)
    if edit_type == "style":
        style = draws.choice(STYLES[1:])
        if style == "grayscale" and all(name in _COLORLESS for name in (source.background, *_colors(source))):
            return None
        return [_Change(style, {})], replace(source, style=style)
    if edit_type == "extract":
        item: Item = draws.choice(source.items)
        change = _Change("extract", {"object": describe(item, source)}, item, item, item.shape)
        return [change], Scene("white", (item,))
    if edit_type == "compose":
        return _compose(source, draws, axis)
    kinds = {"adjust": ("recolour", "recolour", "bigger", "smaller"), "action": ("move to", "move by")}
    drawn = _change(draws.choice(kinds.get(edit_type, (edit_type,))), source, draws, axis)
    return None if drawn is None else ([drawn], _applied(source, drawn))


def _colors(scene: Scene) -> list[str]:
    return [item.color for item in scene.items]


def _compose(source: Scene, draws: Draws, axis: str | None) -> tuple[list[_Change], Scene] | None:
    """Draw two changes to two objects; the second is in the same words before and after the first."""
    first, second = (_change(kind, source, draws, axis) for kind in draws.sample(_COMPOSED, 2))
    if first is None or second is None or (first.before is not None and first.before is second.before):
        return None
    halfway = _applied(source, first)
    stays = second.before is not None and second.after is not None and second.before.cell == second.after.cell
    if second.after is not None and not stays and second.after.cell not in halfway.free_cells:
        return None
    if second.before is not None and describe(second.before, halfway) != second.words["object"]:
        return None
    return [first, second], _applied(halfway, second)


def _applied(scene: Scene, change: _Change) -> Scene:
    items = [item for item in scene.items if item is not change.before]
    return replace(scene, items=tuple(items + ([change.after] if change.after is not None else [])))


def _change(kind: str, scene: Scene, draws: Draws, axis: str | None) -> _Change | None:
    """Draw one change of a kind; None if the scene has no room for it."""
    if kind == "add":
        if not scene.free_cells or len(scene.items) >= MAX_ITEMS:
            return None
        shape = draws.choice(SHAPES)
        color = color_for(shape, draws, pair=axis == "pair")
        after = random_item(draws, shape, color, draws.choice(scene.free_cells))
        words = {"new": with_article(f"{color} {shape}"), "cell": CELLS[after.cell]}
        return _Change(kind, words, None, after, shape)
    item: Item = draws.choice(scene.items)
    words = {"object": describe(item, scene)}
    if kind == "remove":
        return _Change(kind, words, item, None, item.shape)
    if kind == "replace":
        shape = draws.choice([shape for shape in SHAPES if shape != item.shape])
        return _Change(kind, words | {"shape": with_article(shape)}, item, replace(item, shape=shape), shape)
    if kind == "recolour":
        color = draws.choice([color for color in COLORS if color != item.color])
        return _Change(kind, words | {"color": color}, item, replace(item, color=color), color)
    if kind in {"bigger", "smaller"}:
        resized_item = resized(item, _FACTOR if kind == "bigger" else 1 / _FACTOR)
        return None if resized_item is None else _Change(kind, words, item, resized_item)
    return _move(kind, words, item, scene, draws)


def _move(kind: str, words: dict[str, str], item: Item, scene: Scene, draws: Draws) -> _Change | None:
    """Draw a move: "move to" a named cell, "move by" another object, or "move", either of them."""
    if kind == "move":
        kind = "move to"
    if kind == "move to":
        cell = draws.choice(scene.free_cells)
        return _Change(kind, words | {"cell": CELLS[cell]}, item, item.moved_to(cell), item.shape)
    others = [other for other in scene.items if other is not item]
    if not others:
        return None
    other: Item = draws.choice(others)
    relation = draws.choice(RELATIONS)
    beside = neighbour(other.cell, relation)
    if beside not in scene.free_cells:
        return None
    named = {"relation": relation, "other": describe(other, scene)}
    return _Change(kind, words | named, item, item.moved_to(beside), item.shape)


def _instruct(changes: list[_Change], axis: str | None, draws: Draws) -> str:
    phrasings = HELD_OUT_EDIT_PHRASINGS if axis == "phrasing" else EDIT_PHRASINGS
    return " and ".join(draws.choice(phrasings[change.kind]).format(**change.words) for change in changes)
