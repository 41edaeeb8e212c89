"""Draw scenes of the full world that belong to a split and a held-out axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unipic2_data.shapes.full.scene import (
    CELLS,
    COLORS,
    HELD_OUT_COUNTS,
    MANY,
    MAX_ITEMS,
    SHAPES,
    Item,
    Scene,
    backgrounds_for,
    random_item,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unipic2_data.shapes.scene import Draws

__all__ = ["SCENE_AXES", "belongs", "color_for", "random_scene", "unseen_pair"]

SCENE_AXES = ("pair", "count", "many")
"""Held-out axes that are properties of scenes; the others are about words."""
_KINDS = 3  # different shapes in a scene, at most: so that some shapes come more than once


def belongs(split: str, axis: str | None, *scenes: Scene) -> bool:
    """Whether scenes are all of a split, valid, and held out for this axis and for no other."""
    axes = frozenset().union(*(scene.axes for scene in scenes))
    wanted = {axis} if axis in SCENE_AXES else set()
    return axes == wanted and all(scene.split == split and scene.valid for scene in scenes)


def color_for(shape: str, draws: Draws, *, pair: bool = False) -> str:
    """Return a colour that makes a held-out pair with the shape, or one that does not."""
    return draws.choice(_PAIR_COLORS[shape] if pair else _SEEN_COLORS[shape])


def random_scene(draws: Draws, axis: str | None = None, low: int = 1, high: int = MANY - 1) -> Scene:
    """Draw a scene that an axis may hold out.

    Args:
        draws: Random choices.
        axis: "many" draws five objects or more, "count" a held-out number of one shape, "pair" a held-out pair.
        low: Objects, at least; not for "many".
        high: Objects, at most; not for "many".
    """
    if axis == "many":
        low, high = MANY, MAX_ITEMS
    shapes = draws.sample(SHAPES, 1 + draws.below(_KINDS))
    count = low + draws.below(high - low + 1)
    chosen = [draws.choice(shapes) for _ in range(count)]
    if axis == "count":
        shape, number = draws.choice(_COUNTS)
        others = [other for other in chosen if other != shape]
        chosen = [shape] * number + others[: max(0, high - number)]
    special = draws.below(len(chosen)) if axis == "pair" else None
    cells = draws.sample(range(len(CELLS)), len(chosen))
    items = [
        random_item(draws, shape, color_for(shape, draws, pair=index == special), cell)
        for index, (shape, cell) in enumerate(zip(chosen, cells, strict=True))
    ]
    return Scene(draws.choice(backgrounds_for(item.color for item in items)), tuple(items))


def unseen_pair(items: Iterable[Item]) -> bool:
    """Whether one of the objects is a held-out pair."""
    return any(item.held_out for item in items)


_COUNTS = sorted(HELD_OUT_COUNTS)
_PAIR_COLORS = {shape: tuple(c for c in COLORS if Item(shape, c, 0, 0, 0, 0).held_out) for shape in SHAPES}
_SEEN_COLORS = {shape: tuple(c for c in COLORS if not Item(shape, c, 0, 0, 0, 0).held_out) for shape in SHAPES}
