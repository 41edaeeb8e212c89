"""What a world looks like, as far as its detectors must know: shapes, colours, sizes and grid.

The detectors' rules are the same for the quick world and the full one; what differs is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.shapes import render, scene
from unipic2_data.shapes.full import render as full_render
from unipic2_data.shapes.full import scene as full_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FULL", "QUICK", "Look"]


@dataclass(frozen=True, eq=False)
class Look:
    """A world as a detector sees it; lengths in world units, areas in square world units.

    Attributes:
        units: Width of the picture.
        grid: Cells along each side.
        colors: Colour -> RGB.
        contrast: RGB distance to the background, below which a colour is no candidate: objects are never so near.
        area: Shape -> area at radius 1.
        centroid: Shape -> place of its centre of mass, right of and below the centre, at radius 1.
        coverage: Draws shapes, as `unipic2_data.shapes.render.coverage`.
        radii: Smallest and largest true radius.
        soft_radii: The same as soft alpha may show it (detector B).
        hard_areas: Smallest and largest area as hard masks may show it (detector A).
        deviation: Squared Mahalanobis distance from a shape's moments, at most; half an object has more (detector A).
        patch: Side of a patch that holds any object and its blur.
        keep: Score that detector B reports, at least.
        sure: Score below which an object of detector B is doubtful and so unexplained.
        core: Alpha of the pixels that show an object's colour at full strength.
        fine: Whether shapes are many and thin, so that detector A needs a covariance for each of them, and colours
            from the edge where nothing is inside.
    """

    units: int
    grid: int
    colors: Mapping[str, tuple[int, int, int]]
    contrast: float
    area: Mapping[str, float]
    centroid: Mapping[str, tuple[float, float]]
    coverage: Callable[[str, np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
    radii: tuple[float, float]
    soft_radii: tuple[float, float]
    hard_areas: tuple[float, float]
    deviation: float
    patch: float
    keep: float
    sure: float
    core: float
    fine: bool

    @property
    def shapes(self) -> tuple[str, ...]:
        """The shapes, in a fixed order."""
        return tuple(self.area)

    @property
    def palette(self) -> np.ndarray:
        """The colours, float32 (K, 3)."""
        return np.array(list(self.colors.values()), np.float32)

    def cell(self, box: tuple[int, int, int, int], size: int) -> int:
        """Return the cell in which the middle of a box with inclusive corners lies, in a picture of `size` pixels."""
        column, row = (-(-self.grid * (low + high + 1) // (2 * size)) - 1 for low, high in (box[::2], box[1::2]))
        return self.grid * row + column


QUICK = Look(
    units=scene.WORLD_UNITS,
    grid=2,
    colors=scene.COLORS,
    contrast=60.0,
    area=render.AREA,
    centroid={shape: (0.0, down) for shape, down in render.CENTROID.items()},
    coverage=render.coverage,
    radii=(5.0, 7.0),
    soft_radii=(4.2, 7.8),
    hard_areas=(28.0, 190.0),
    deviation=45.0,
    patch=22.0,
    keep=0.75,
    sure=0.75,
    core=0.85,
    fine=False,
)
FULL = Look(
    units=full_scene.WORLD_UNITS,
    grid=3,
    colors=full_scene.COLORS,
    contrast=70.0,
    area=full_render.AREA,
    centroid=full_render.CENTROID,
    coverage=full_render.coverage,
    radii=(full_scene.MIN_RADIUS, full_scene.MAX_RADIUS),
    soft_radii=(4.3, 10.2),
    hard_areas=(22.0, 290.0),
    deviation=45.0,
    patch=26.0,
    keep=0.5,
    sure=0.7,
    core=0.75,
    fine=True,
)
