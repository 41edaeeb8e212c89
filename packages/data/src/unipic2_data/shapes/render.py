"""Render scenes: analytic anti-aliasing by signed distance, many scenes in one call.

A pixel's coverage is ``clip(1/2 - d, 0, 1)`` with d the signed distance of its centre to the outline in pixels. Each
object is drawn within its own cell, so an object that two scenes share has identical pixels in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.shapes.scene import BACKGROUNDS, COLORS, SHAPES, WORLD_UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_data.shapes.scene import Scene

__all__ = ["AREA", "CENTROID", "coverage", "render", "render_batch"]

_CIRCLE = 0.95  # radius
_SQUARE = 0.85  # half side
_TRIANGLE = (0.95, 0.8)  # half base, depth of the base below the centre; the apex is 1 above
_CROSS = 0.34  # half thickness of the bars, which are 1 long from the centre
_SLANT = float(np.hypot(1 + _TRIANGLE[1], _TRIANGLE[0]))

AREA = {  # of radius 1
    "circle": float(np.pi) * _CIRCLE**2,
    "square": 4 * _SQUARE**2,
    "triangle": _TRIANGLE[0] * (1 + _TRIANGLE[1]),
    "cross": 8 * _CROSS - 4 * _CROSS**2,
}
CENTROID = {"circle": 0.0, "square": 0.0, "triangle": (2 * _TRIANGLE[1] - 1) / 3, "cross": 0.0}  # below the centre

_SHAPE_ID = {shape: index for index, shape in enumerate(SHAPES)}
_COLOR_ID = {color: index for index, color in enumerate(COLORS)}
_PALETTE = np.array(list(COLORS.values()), np.float32)


def coverage(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return how much of each pixel the shape covers.

    Args:
        shape: One of ``SHAPES``.
        x: Centres in pixels from the left edge, (M,).
        y: Centres in pixels from the top edge, (M,).
        r: Radii in pixels, (M,).
        height: Height of the patch in pixels.
        width: Width of the patch in pixels.

    Returns:
        float32 (M, height, width) in [0, 1].
    """
    x, y, r = (np.asarray(v, np.float32)[:, None, None] for v in (x, y, r))
    dx = np.abs(np.arange(width, dtype=np.float32) + np.float32(0.5) - x)  # (M, 1, width)
    dy = (np.arange(height, dtype=np.float32) + np.float32(0.5))[:, None] - y  # (M, height, 1)
    if shape == "circle":
        distance = np.sqrt(dx * dx + dy * dy) - np.float32(_CIRCLE) * r
    elif shape == "square":
        distance = np.maximum(dx, np.abs(dy)) - np.float32(_SQUARE) * r
    elif shape == "triangle":
        half, base = _TRIANGLE
        side = (np.float32((1 + base) / _SLANT) * dx) - np.float32(half / _SLANT) * (dy + r)
        distance = np.maximum(side, dy - np.float32(base) * r)
        # The slanted sides' distances are too small beyond the corners: nothing lies outside the bounding box.
        distance = np.maximum(distance, np.maximum(dx - np.float32(half) * r, -dy - r))
    else:
        dy, bar = np.abs(dy), np.float32(_CROSS) * r
        distance = np.minimum(np.maximum(dx - r, dy - bar), np.maximum(dx - bar, dy - r))
    return np.clip(np.float32(0.5) - distance, 0, 1)


def render_batch(scenes: Sequence[Scene], size: int) -> np.ndarray:
    """Render scenes.

    Args:
        scenes: N scenes.
        size: Width and height in pixels, even.

    Returns:
        uint8 (N, size, size, 3). A scene's pixels do not depend on the other scenes.
    """
    if size % 2 or size < WORLD_UNITS // 2:
        msg = f"size must be an even number of pixels >= {WORLD_UNITS // 2}, got {size}."
        raise ValueError(msg)
    half, scale = size // 2, size / WORLD_UNITS
    background = np.array([BACKGROUNDS[scene.background] for scene in scenes], np.uint8).reshape(-1, 1, 1, 3)
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    images[:] = background
    cells = images.reshape(len(scenes), 2, half, 2, half, 3)
    table = np.array(
        [
            (n, _SHAPE_ID[i.shape], _COLOR_ID[i.color], i.cell // 2, i.cell % 2, i.x, i.y, i.r)
            for n, scene in enumerate(scenes)
            for i in scene.items
        ],
        np.float32,
    ).reshape(-1, 8)
    for shape, index in _SHAPE_ID.items():
        rows = table[table[:, 1] == index]
        n, _, color, down, right = rows[:, :5].astype(np.int64).T
        x, y, r = rows[:, 5:].T * np.float32(scale)
        alpha = coverage(shape, x - right * half, y - down * half, r, half, half)[..., None]
        under = background[n].astype(np.float32)
        cells[n, down, :, right] = (under + alpha * (_PALETTE[color][:, None, None] - under) + np.float32(0.5)).astype(
            np.uint8
        )
    return images


def render(scene: Scene, size: int) -> np.ndarray:
    """Render one scene: uint8 (size, size, 3); see `render_batch`."""
    return render_batch([scene], size)[0]
