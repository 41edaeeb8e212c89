"""Scene graphs of the full world: what is in a picture, which split it belongs to, and what is held out.

A scene has a plain background and 1-6 objects, each alone in one of nine cells of a 3x3 grid and at least 2 units from
all others. Lengths are world units: the picture is 64 units wide at any number of pixels. The *scene graph* is the
shape, colour and cell of every object and the background; place within the cell and radius are jitter.

Splits are by hash of the scene graph, whatever the seed. Three axes hold scenes out of training altogether: pairs of
colour and shape, numbers of one shape, and five or more objects (`Scene.axes`). The axes that are about words (triples
of a relation, edits of an attribute, paraphrases) are in `prompts`, `edits` and `questions`; their scenes are those
of the held-out share of all other graphs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.shapes.scene import split_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unipic2_data.shapes.scene import Draws

__all__ = [
    "BACKGROUNDS",
    "CELLS",
    "COLORS",
    "EXTENTS",
    "HELD_OUT_COUNTS",
    "HELD_OUT_PAIRS",
    "MANY",
    "MAX_ITEMS",
    "MAX_RADIUS",
    "MIN_RADIUS",
    "RELATIONS",
    "SHAPES",
    "STYLES",
    "WORLD_UNITS",
    "Item",
    "Scene",
    "backgrounds_for",
    "contrasts",
    "neighbour",
    "random_item",
    "related_cells",
    "resized",
]

WORLD_UNITS = 64  # width of the picture
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring", "bar", "L")
COLORS = {  # GenEval's ten, RGB distance >= 90 to each other
    "red": (215, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (245, 220, 40),
    "green": (40, 155, 50),
    "blue": (35, 85, 205),
    "purple": (140, 55, 175),
    "pink": (240, 130, 185),
    "brown": (120, 70, 30),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}
BACKGROUNDS = {  # at most one colour is too near to each; see `contrasts`
    "white": (250, 250, 250),
    "cream": (245, 230, 205),
    "light blue": (170, 205, 240),
    "light green": (175, 225, 180),
    "gray": (150, 150, 150),
}
CELLS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
EXTENTS = {  # of radius 1: to the left, up, to the right, down
    "circle": (0.95, 0.95, 0.95, 0.95),
    "square": (0.85, 0.85, 0.85, 0.85),
    "triangle": (0.95, 1.0, 0.95, 0.8),
    "cross": (1.0, 1.0, 1.0, 1.0),
    "diamond": (1.0, 1.0, 1.0, 1.0),
    "ring": (0.95, 0.95, 0.95, 0.95),
    "bar": (0.95, 0.38, 0.95, 0.38),
    "L": (0.75, 1.0, 0.75, 1.0),
}
STYLES = ("plain", "grayscale", "inverted", "outline")
RELATIONS = ("left of", "right of", "above", "below")
MAX_ITEMS = 6
MANY = 5  # objects from which on a scene is held out

# Latin rules: every colour, shape and number is still seen in other combinations.
HELD_OUT_PAIRS = frozenset(
    (color, shape) for c, color in enumerate(COLORS) for s, shape in enumerate(SHAPES) if (c + s) % len(SHAPES) == 0
)
HELD_OUT_COUNTS = frozenset((shape, n) for s, shape in enumerate(SHAPES) for n in (2, 3, 4) if (s + n) % 4 == 0)

MIN_RADIUS, MAX_RADIUS = 5.0, 9.0  # of objects that were made smaller or bigger; all others are in between

_CONTRAST = 90.0  # RGB distance between object and background, at least
_CELL = 21  # units; the grid leaves half a unit on each side of the picture
_EDGE = 1  # units that an object keeps from the edge of its cell: objects are two units apart
_RADII = (6.0, 7.5)
_STEPS = 8  # coordinates are multiples of 1/8 unit: exact in float32 and short in JSON
_SHARES = {"train": 0.74, "validation": 0.06, "test": 0.15, "heldout": 0.05}
_STEP = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True, slots=True)
class Item:
    """One object: shape, colour and cell (0-8), and where it lies (centre x, y and radius in world units)."""

    shape: str
    color: str
    cell: int
    x: float
    y: float
    r: float

    @property
    def graph(self) -> tuple[str, str, int]:
        """What counts for the scene graph: shape, colour, cell."""
        return self.shape, self.color, self.cell

    @property
    def held_out(self) -> bool:
        """Whether it is a held-out pair of colour and shape."""
        return (self.color, self.shape) in HELD_OUT_PAIRS

    @property
    def box(self) -> tuple[float, float, float, float]:
        """How far it reaches: left, top, right, bottom in world units."""
        left, top, right, bottom = EXTENTS[self.shape]
        edges = (self.x - left * self.r, self.y - top * self.r, self.x + right * self.r, self.y + bottom * self.r)
        return tuple(round(edge, 3) for edge in edges)  # type: ignore[return-value]

    def moved_to(self, cell: int) -> Item:
        """Return the object in another cell, at the same place within the cell."""
        dx, dy = (cell % 3 - self.cell % 3) * _CELL, (cell // 3 - self.cell // 3) * _CELL
        return replace(self, cell=cell, x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and its objects, in order of their cells; ``style`` is how the whole picture is drawn."""

    background: str
    items: tuple[Item, ...]
    style: str = "plain"

    def __post_init__(self) -> None:
        cells = [item.cell for item in self.items]
        if cells != sorted(set(cells)):
            object.__setattr__(self, "items", tuple(sorted(self.items, key=lambda item: item.cell)))
            if len(set(cells)) < len(cells):
                msg = f"a cell holds at most one object, got cells {cells}."
                raise ValueError(msg)

    @property
    def graph(self) -> str:
        """The scene graph as canonical text, equal for two scenes that differ in jitter or style alone."""
        return f"{self.background}|" + ";".join(f"{i.cell},{i.color},{i.shape}" for i in self.items)

    @property
    def axes(self) -> frozenset[str]:
        """What holds the scene out: "pair", "count", "many"."""
        found = {"pair"} if any(item.held_out for item in self.items) else set()
        if HELD_OUT_COUNTS & set(Counter(item.shape for item in self.items).items()):
            found.add("count")
        if len(self.items) >= MANY:
            found.add("many")
        return frozenset(found)

    @property
    def split(self) -> str:
        """The split that this scene graph belongs to, whatever the seed."""
        return "heldout" if self.axes else split_of("full-scene", self.graph, _SHARES)

    @property
    def free_cells(self) -> list[int]:
        """Cells without an object."""
        taken = {item.cell for item in self.items}
        return [cell for cell in range(len(CELLS)) if cell not in taken]

    @property
    def valid(self) -> bool:
        """Whether every object stands out from the background, and no more than `MAX_ITEMS` are there."""
        return 0 < len(self.items) <= MAX_ITEMS and all(contrasts(item.color, self.background) for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """Return the scene as plain data; ``box`` is for readers who do not know the shapes."""
        items = [
            {"shape": i.shape, "color": i.color, "cell": i.cell, "x": i.x, "y": i.y, "r": i.r, "box": list(i.box)}
            for i in self.items
        ]
        return {
            "world": "full",
            "units": WORLD_UNITS,
            "grid": 3,
            "style": self.style,
            "background": self.background,
            "items": items,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scene:
        """Return the scene that `to_json` described."""
        fields = [{name: value for name, value in item.items() if name != "box"} for item in data["items"]]
        return Scene(data["background"], tuple(Item(**item) for item in fields), data["style"])


def contrasts(color: str, background: str) -> bool:
    """Whether an object of a colour stands out from a background, by an RGB distance of 90 or more."""
    return bool(np.linalg.norm(np.subtract(COLORS[color], BACKGROUNDS[background])) >= _CONTRAST)


_CONTRASTING = {color: frozenset(ground for ground in BACKGROUNDS if contrasts(color, ground)) for color in COLORS}


def backgrounds_for(colors: Iterable[str]) -> list[str]:
    """Return the backgrounds from which all of the colours stand out."""
    grounds = [_CONTRASTING[color] for color in colors]
    return [ground for ground in BACKGROUNDS if all(ground in some for some in grounds)]


def random_item(draws: Draws, shape: str, color: str, cell: int, radii: tuple[float, float] = _RADII) -> Item:
    """Return the object at a random place of its cell, at least 1 unit off the cell's edge."""
    low, high = radii
    r = low + draws.below(round((high - low) * _STEPS) + 1) / _STEPS
    play = int((_CELL / 2 - _EDGE - r) * _STEPS)  # how far the centre may lie off the cell's centre
    dx, dy = ((draws.below(2 * play + 1) - play) / _STEPS for _ in range(2))
    x, y = _center(cell)
    return Item(shape, color, cell, x + dx, y + dy, r)


def resized(item: Item, factor: float) -> Item | None:
    """Return the object with another radius at the same place; None if it is too small or does not fit its cell."""
    r = round(item.r * factor * _STEPS) / _STEPS
    x, y = _center(item.cell)
    fits = max(abs(item.x - x), abs(item.y - y)) + r <= _CELL / 2 - _EDGE
    return replace(item, r=r) if fits and MIN_RADIUS <= r <= MAX_RADIUS else None


def related_cells(relation: str, cell: int, other: int) -> bool:
    """Whether one cell is in a relation to another and in no second one: same row or same column, no diagonal."""
    dx, dy = cell % 3 - other % 3, cell // 3 - other // 3
    step_x, step_y = _STEP[relation]
    return (dx == 0) != (dy == 0) and dx * step_x + dy * step_y > 0


def neighbour(cell: int, relation: str) -> int | None:
    """Return the cell next to another in the direction of a relation; None beyond the edge."""
    x, y = cell % 3 + _STEP[relation][0], cell // 3 + _STEP[relation][1]
    return 3 * y + x if 0 <= x < 3 and 0 <= y < 3 else None


def _center(cell: int) -> tuple[float, float]:
    return tuple(WORLD_UNITS / 2 + (place - 1) * _CELL for place in (cell % 3, cell // 3))  # type: ignore[return-value]
