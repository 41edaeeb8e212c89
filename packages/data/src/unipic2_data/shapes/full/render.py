"""Render scenes of the full world: analytic anti-aliasing by signed distance, as in the quick world.

A pixel's coverage is ``clip(1/2 - d, 0, 1)`` with d the signed distance of its centre to the outline in pixels. Styles
are closed-form transforms of the plain picture, so that what an edit of style should give is known to the last bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.shapes.full.scene import BACKGROUNDS, COLORS, SHAPES, WORLD_UNITS
from unipic2_data.shapes.render import AREA as QUICK_AREA
from unipic2_data.shapes.render import CENTROID as QUICK_CENTROID
from unipic2_data.shapes.render import coverage as quick_coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_data.shapes.full.scene import Item, Scene

__all__ = ["AREA", "CENTROID", "MIN_SIZE", "coverage", "render", "render_batch", "styled"]

MIN_SIZE = 64
_RING = (0.95, 0.45)  # outer and inner radius
_BAR = (0.95, 0.38)  # half length, half thickness
_L = (0.75, 0.6)  # half width, thickness of both strokes; 1 high from the centre

AREA = QUICK_AREA | {  # of radius 1
    "diamond": 2.0,
    "ring": math.pi * (_RING[0] ** 2 - _RING[1] ** 2),
    "bar": 4 * _BAR[0] * _BAR[1],
    "L": 2 * _L[1] + (2 * _L[0] - _L[1]) * _L[1],
}
_FOOT = (2 * _L[0] - _L[1]) * _L[1]  # area of the L's foot beyond its stem
CENTROID = {shape: (0.0, down) for shape, down in QUICK_CENTROID.items()} | {  # right of and below the centre
    "diamond": (0.0, 0.0),
    "ring": (0.0, 0.0),
    "bar": (0.0, 0.0),
    "L": (
        (2 * _L[1] * (_L[1] / 2 - _L[0]) + _FOOT * _L[1] / 2) / AREA["L"],
        _FOOT * (1 - _L[1] / 2) / AREA["L"],
    ),
}
_STROKE = 1.0  # world units: half the thickness of outlines
_INSIDE = 36  # difference to the background, in one channel, of what is rather object than background
_PALETTE = np.array(list(COLORS.values()), np.float32)
_COLOR_ID = {color: index for index, color in enumerate(COLORS)}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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
    if shape in QUICK_AREA:
        return quick_coverage(shape, x, y, r, height, width)
    x, y, r = (np.asarray(v, np.float32)[:, None, None] for v in (x, y, r))
    dx = np.arange(width, dtype=np.float32) + np.float32(0.5) - x  # (M, 1, width)
    dy = (np.arange(height, dtype=np.float32) + np.float32(0.5))[:, None] - y  # (M, height, 1)
    if shape == "diamond":
        distance = (np.abs(dx) + np.abs(dy) - r) * np.float32(math.sqrt(0.5))
    elif shape == "ring":
        from_center = np.sqrt(dx * dx + dy * dy)
        outer, inner = (np.float32(radius) * r for radius in _RING)
        distance = np.maximum(from_center - outer, inner - from_center)
    elif shape == "bar":
        long, thick = (np.float32(half) * r for half in _BAR)
        distance = np.maximum(np.abs(dx) - long, np.abs(dy) - thick)
    else:
        half, stroke = (np.float32(part) * r for part in _L)
        right_of_stem, above_foot = dx + half - stroke, r - stroke - dy
        box = np.maximum(np.abs(dx) - half, np.abs(dy) - r)
        distance = np.maximum(box, np.minimum(right_of_stem, above_foot))
    return np.clip(np.float32(0.5) - distance, 0, 1)


def render_batch(scenes: Sequence[Scene], size: int) -> np.ndarray:
    """Render scenes.

    Args:
        scenes: N scenes.
        size: Width and height in pixels, even, 64 or more: smaller gaps between objects could not be seen.

    Returns:
        uint8 (N, size, size, 3). A scene's pixels do not depend on the other scenes.
    """
    if size % 2 or size < MIN_SIZE:
        msg = f"size must be an even number of pixels >= {MIN_SIZE}, got {size}."
        raise ValueError(msg)
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    images[:] = np.array([BACKGROUNDS[scene.background] for scene in scenes], np.uint8).reshape(-1, 1, 1, 3)
    by_shape: dict[str, list[tuple[int, Item]]] = {shape: [] for shape in SHAPES}
    for n, scene in enumerate(scenes):
        for item in scene.items:
            by_shape[item.shape].append((n, item))
    for shape, placed in by_shape.items():
        if placed:
            _draw(images, shape, placed)
    for n, scene in enumerate(scenes):
        if scene.style != "plain":
            images[n] = styled(images[n], scene.style)
    return images


def render(scene: Scene, size: int) -> np.ndarray:
    """Render one scene: uint8 (size, size, 3); see `render_batch`."""
    return render_batch([scene], size)[0]


def styled(image: np.ndarray, style: str) -> np.ndarray:
    """Return a plain picture in another style.

    "grayscale" is the luma of BT.601; "inverted" is 255 - value; "outline" is black within a stroke's width of the
    border between objects and background, and white elsewhere.

    Args:
        image: uint8 (H, H, 3).
        style: One of ``STYLES``.
    """
    if style == "grayscale":
        return np.repeat((image.astype(np.float32) @ _LUMA + np.float32(0.5)).astype(np.uint8)[..., None], 3, -1)
    if style == "inverted":
        return 255 - image
    if style == "outline":
        reach = max(1, round(_STROKE * len(image) / WORLD_UNITS))
        inside = np.abs(image.astype(np.int16) - image[0, 0]).max(-1) > _INSIDE  # the corner is background
        edge = _dilated(inside, reach) & _dilated(~inside, reach)
        return np.where(edge, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)
    return image


def _dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    """Return the mask grown by `reach` pixels along the axes, a square in all."""
    for axis in (0, 1):
        grown = mask.copy()
        for step in range(1, reach + 1):
            there, here = [slice(None)] * 2, [slice(None)] * 2
            there[axis], here[axis] = slice(step, None), slice(None, -step)
            grown[tuple(here)] |= mask[tuple(there)]
            grown[tuple(there)] |= mask[tuple(here)]
        mask = grown
    return mask


def _draw(images: np.ndarray, shape: str, placed: list[tuple[int, Item]]) -> None:
    """Draw objects of one shape, each within a patch around it, so that it has the same pixels in any scene."""
    size = images.shape[1]
    scale = size / WORLD_UNITS
    x, y, r = (np.array([getattr(item, name) for _, item in placed], np.float32) * np.float32(scale) for name in "xyr")
    side = 2 * (int(r.max()) + 2)
    left, top = (np.floor(center).astype(np.int64) - side // 2 for center in (x, y))
    alpha = coverage(shape, x - left, y - top, r, side, side)
    for index, (n, item) in enumerate(placed):
        rows = slice(max(top[index], 0), min(top[index] + side, size))
        columns = slice(max(left[index], 0), min(left[index] + side, size))
        part = alpha[index, rows.start - top[index] : rows.stop - top[index]]
        part = part[:, columns.start - left[index] : columns.stop - left[index], None]
        under = images[n, rows, columns].astype(np.float32)
        color = _PALETTE[_COLOR_ID[item.color]]
        images[n, rows, columns] = (under + part * (color - under) + np.float32(0.5)).astype(np.uint8)
