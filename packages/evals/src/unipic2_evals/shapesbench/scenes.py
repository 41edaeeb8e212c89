"""What is in a picture of the shapes world, and what should be: scenes from a sample's JSON and from detections.

Any detector will do, and no palette is known here: the right background is that of the target picture.

Legend:
    unit: world unit; the picture is ``units`` of them wide (64 in the full world, 32 in the quick one).
    graph: class, colour and cell of an object; a cell holds at most one object.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unipic2_evals.checks import as_field, as_mapping, as_number, as_rows, as_text
from unipic2_evals.pictures import Pixels
from unipic2_evals.protocols import Detected

__all__ = [
    "SURE",
    "UNCLEAR",
    "Scene",
    "Seen",
    "Thing",
    "background_of",
    "find",
    "grid_of",
    "read_scene",
    "same_place",
    "same_size",
    "see",
]

SURE = 0.7
"""Score above which a detection is an object of the scene."""
UNCLEAR = 0.5
"""Score above which it is at least something: a picture with such a thing shows no exact scene."""
QUICK = {"units": 32, "grid": 2}
"""What samples of the quick world do not say about it."""
PLACE = 3.0
"""How far an object may lie off its place, in 64ths of the picture."""
SIZE = 0.25
"""How much its area may differ from the right one, as a fraction of it."""
FOREGROUND = 60.0
"""RGB distance to the background from which a pixel is foreground."""
FRAGMENT = 7
"""Area that foreground beyond all objects may have without being something, in 64ths of the picture or pixels."""
MARGIN = 1.5
"""Width around a box that belongs to its object, in 64ths of the picture, or pixels if they are larger: soft edges."""


class Thing(NamedTuple):
    """One object; lengths are shares of the picture's width."""

    name: str
    color: str
    cell: int
    x: float
    y: float
    area: float
    """Pixels in and around its box that are not background, as a share of the picture."""
    score: float = 1.0

    @property
    def graph(self) -> tuple[str, str, int]:
        """What counts for the scene graph."""
        return self.name, self.color, self.cell


class Scene(NamedTuple):
    """What a picture should show."""

    things: tuple[Thing, ...]
    grid: int
    style: str
    """"plain", or how the whole picture is drawn."""


class Seen(NamedTuple):
    """What a picture shows."""

    things: tuple[Thing, ...]
    """Objects that are sure, by falling score."""
    worst: float
    """Smallest score of all things, sure or not, in [0, 1]; 0 if there are none."""
    stray: float
    """Share of the picture that is foreground beyond all sure objects."""
    background: npt.NDArray[np.float64]
    """Median colour of the border, RGB (3,)."""
    roughness: float
    """Standard deviation of the background's pixels, in values of 0-255, mean of the channels."""
    unclear: bool
    """Whether there is something that is no object for sure."""


def read_scene(shapes: Mapping[str, Any], field: str, pixels: Pixels) -> Scene:
    """Return a scene of a sample's ground truth.

    Args:
        shapes: The ``shapes`` of its JSON.
        field: "scene" or "target_scene".
        pixels: The right picture of it, in which areas are measured as they will be in a model's.

    Raises:
        ValueError: If it is malformed.
    """
    scene = as_mapping(as_field(shapes, field, "shapes"), field)
    units, grid = (as_number(scene.get(name, default), name) for name, default in QUICK.items())
    away = _distance(pixels, background_of(pixels))
    things = []
    for item in as_rows(as_field(scene, "items", field), f"items of {field}", 0):
        name, color = (as_text(as_field(item, key, "item"), key) for key in ("shape", "color"))
        x, y, r, cell = (as_number(as_field(item, key, "item"), key) for key in ("x", "y", "r", "cell"))
        corners = as_rows(item.get("box", [x - r, y - r, x + r, y + r]), "box", 4)
        x1, y1, x2, y2 = (as_number(corner, "box") / units for corner in corners)
        area = _area(away, (x1, y1, x2, y2))
        things.append(Thing(name, color, int(cell), (x1 + x2) / 2, (y1 + y2) / 2, area))
    return Scene(tuple(things), int(grid), str(scene.get("style", "plain")))


def grid_of(shapes: Mapping[str, Any]) -> int:
    """Return the number of cells along each side of a sample's world."""
    scene = as_mapping(as_field(shapes, "scene", "shapes"), "scene")
    return int(as_number(scene.get("grid", QUICK["grid"]), "grid"))


def see(pixels: Pixels, detected: Detected, grid: int) -> Seen:
    """Return what a picture shows.

    Args:
        pixels: The picture, uint8 (H, H, 3).
        detected: What a detector says about it.
        grid: Cells along each side.
    """
    size = len(pixels)
    background = background_of(pixels)
    away = _distance(pixels, background)
    far = away > FOREGROUND
    things, ground, scores = [], np.ones(far.shape, bool), []
    for name, boxes in detected.objects.items():
        for (x1, y1, x2, y2, score), color in zip(boxes, detected.colors[name], strict=True):
            if score <= UNCLEAR:
                continue
            scores.append(score)
            if score > SURE:
                box = (x1 / size, y1 / size, (x2 + 1) / size, (y2 + 1) / size)
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                cell = grid * min(int(y * grid), grid - 1) + min(int(x * grid), grid - 1)
                things.append(Thing(name, color, cell, x, y, _area(away, box), score))
                ground[_around(box, size)] = False
    rest = pixels[ground & ~far]
    things.sort(key=lambda thing: -thing.score)
    stray = int((ground & far).sum())
    return Seen(
        things=tuple(things),
        worst=min(scores, default=0.0),
        stray=stray / far.size,
        background=background,
        roughness=float(rest.std(0).mean()) if len(rest) else 255.0,
        unclear=stray > FRAGMENT * max(size / 64, 1) ** 2 or min(scores, default=1.0) <= SURE,
    )


def background_of(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return the median colour of a picture's border, RGB (3,)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(np.median(border, 0), np.float64)


def same_place(first: Thing, second: Thing) -> bool:
    """Whether two objects lie at the same place, within 3 pixels of 64."""
    return math.dist((first.x, first.y), (second.x, second.y)) * 64 <= PLACE


def same_size(thing: Thing, right: Thing) -> bool:
    """Whether an object is as large as the right one, within a quarter of its area."""
    return abs(thing.area - right.area) <= SIZE * right.area


def find(things: Sequence[Thing], right: Thing) -> Thing | None:
    """Return the object with the same class, colour and cell."""
    return next((thing for thing in things if thing.graph == right.graph), None)


def _distance(pixels: Pixels, background: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the RGB distance of every pixel to the background, (H, H)."""
    difference = pixels.astype(np.float32) - background.astype(np.float32)
    return np.sqrt((difference * difference).sum(-1))


def _around(box: tuple[float, float, float, float], size: int) -> tuple[slice, slice]:
    """Return rows and columns of a box with its margin, in a picture of `size` pixels."""
    margin = MARGIN * max(size / 64, 1)
    left, top = (max(0, round(edge * size - margin)) for edge in box[:2])
    right, bottom = (round(edge * size + margin) for edge in box[2:])
    return slice(top, bottom), slice(left, right)


def _area(away: npt.NDArray[np.float32], box: tuple[float, float, float, float]) -> float:
    """Return the area of what differs from the background in and around a box, as a share of the picture.

    A pixel counts in full from three quarters of the contrast, and not at all up to a quarter: noise adds nothing, blur
    takes nothing away.
    """
    part = np.sort(away[_around(box, len(away))], axis=None)
    contrast = float(part[int(0.9 * len(part))]) if len(part) else 0.0
    if contrast <= 0:
        return 0.0
    return float(np.clip(2 * part / contrast - 0.5, 0, 1).sum()) / away.size
