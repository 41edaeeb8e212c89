"""Scene graphs of the shapes world: what is in a picture, and which split it belongs to.

A scene has a plain background and 1-3 objects, each alone in one of the four cells of a 2x2 grid. Lengths are world
units: the picture is 32 units wide at any number of pixels. The *scene graph* is the shape, colour and cell of every
object and the background; position within the cell and radius are jitter and not part of it.

Splits are by hash of the scene graph, never by index, and do not depend on any seed: two data sets made with different
seeds never mix training and test scenes. A scene that shows a held-out pair of colour and shape is held out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from unipic2_data.randomness import keyed_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BACKGROUNDS",
    "CELLS",
    "CELL_UNITS",
    "COLORS",
    "HELD_OUT_PAIRS",
    "SHAPES",
    "SPLITS",
    "WORLD_UNITS",
    "Draws",
    "Item",
    "Scene",
    "held_out",
    "random_item",
    "split_of",
]

WORLD_UNITS = 32  # width of the picture
CELL_UNITS = 16  # width of a cell
SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {  # six of GenEval's ten, RGB distance >= 90 to every background and to each other
    "red": (215, 40, 40),
    "green": (40, 155, 50),
    "blue": (35, 85, 205),
    "yellow": (235, 200, 25),
    "purple": (140, 55, 175),
    "black": (25, 25, 25),
}
BACKGROUNDS = {
    "white": (245, 245, 245),
    "gray": (200, 200, 200),
    "sky": (190, 215, 240),
    "cream": (245, 230, 205),
    "mint": (200, 235, 210),
}
CELLS = ("top left", "top right", "bottom left", "bottom right")
# Latin style: every colour and every shape is still seen in other pairs.
HELD_OUT_PAIRS = frozenset({("yellow", "triangle"), ("blue", "cross"), ("purple", "circle")})
SPLITS = ("train", "validation", "test", "heldout")

_JITTER_STEPS = 8  # coordinates are multiples of 1/8 unit: exact in float32 and short in JSON
_RADIUS = (5, 7)
_SCENE_SHARES = {"train": 0.74, "validation": 0.06, "test": 0.15, "heldout": 0.05}


class Draws:
    """Small random choices from one generator, drawn in blocks: calling numpy costs more than the choice itself."""

    def __init__(self, rng: Any) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(64).tolist()
        return self._block.pop()

    def below(self, bound: int) -> int:
        """Return an integer in [0, bound)."""
        return int(self.uniform() * bound)

    def choice(self, options: Any) -> Any:
        """Return one element of a sequence."""
        return options[self.below(len(options))]

    def sample(self, options: Iterable[Any], count: int) -> list[Any]:
        """Return `count` different elements, in random order."""
        pool = list(options)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Item:
    """One object: shape, colour and cell, and where it lies (centre x, y and radius in world units)."""

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

    def moved_to(self, cell: int) -> Item:
        """Return the object in another cell, at the same place within the cell."""
        dx = (cell % 2 - self.cell % 2) * CELL_UNITS
        dy = (cell // 2 - self.cell // 2) * CELL_UNITS
        return replace(self, cell=cell, x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and its objects, in order of their cells."""

    background: str
    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        cells = [item.cell for item in self.items]
        if cells != sorted(set(cells)):
            object.__setattr__(self, "items", tuple(sorted(self.items, key=lambda item: item.cell)))
            if len(set(cells)) < len(cells):
                msg = f"a cell holds at most one object, got cells {cells}."
                raise ValueError(msg)

    @property
    def graph(self) -> str:
        """The scene graph as canonical text, equal for two scenes that differ in jitter alone."""
        return f"{self.background}|" + ";".join(f"{i.cell},{i.color},{i.shape}" for i in self.items)

    @property
    def free_cells(self) -> list[int]:
        """Cells without an object."""
        taken = {item.cell for item in self.items}
        return [cell for cell in range(len(CELLS)) if cell not in taken]

    @property
    def split(self) -> str:
        """The split that this scene graph belongs to, whatever the seed."""
        return "heldout" if held_out(self.items) else split_of("scene", self.graph, _SCENE_SHARES)

    def to_json(self) -> dict[str, Any]:
        """Return the scene as plain data."""
        items = [{"shape": i.shape, "color": i.color, "cell": i.cell, "x": i.x, "y": i.y, "r": i.r} for i in self.items]
        return {"background": self.background, "items": items}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scene:
        """Return the scene that `to_json` described."""
        return Scene(data["background"], tuple(Item(**item) for item in data["items"]))


def held_out(items: Iterable[Item]) -> bool:
    """Whether any object is a held-out pair of colour and shape."""
    return any((item.color, item.shape) in HELD_OUT_PAIRS for item in items)


@lru_cache(maxsize=1 << 19)
def _fraction(space: str, text: str) -> float:
    return int.from_bytes(keyed_hash("unipic2-shapes-v1", space, text)[:8], "big") / 2**64


def split_of(space: str, text: str, shares: dict[str, float]) -> str:
    """Return the split of a text by its hash.

    Args:
        space: What the text is ("scene", "prompt"); independent hashes.
        text: Canonical text.
        shares: Share of each split, in sum 1, in a fixed order.
    """
    position = _fraction(space, text)
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return name


def random_item(draws: Draws, shape: str, color: str, cell: int) -> Item:
    """Return the object at a random place of its cell, at least 1 unit off the cell's edge (so objects are 2 apart)."""
    low, high = _RADIUS
    r = low + draws.below((high - low) * _JITTER_STEPS + 1) / _JITTER_STEPS
    play = int((CELL_UNITS / 2 - 1 - r) * _JITTER_STEPS)  # how far the centre may lie off the cell's centre
    dx, dy = ((draws.below(2 * play + 1) - play) / _JITTER_STEPS for _ in range(2))
    x = (cell % 2 + 0.5) * CELL_UNITS + dx
    y = (cell // 2 + 0.5) * CELL_UNITS + dy
    return Item(shape, color, cell, x, y, r)
