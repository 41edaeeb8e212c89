"""Detector A: hard masks. Used as a reward; see `detect`.

Foreground is what differs from the border's median colour by about half the contrast found nearby. Each connected
region's colour is the palette entry nearest to most of its inner pixels; its shape is the one whose size-free
moments are nearest by Mahalanobis distance.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import ndimage

from unipic2_data.shapes.detect import Detected, Detection, Detector, check_images
from unipic2_data.shapes.look import FULL, QUICK, Look

__all__ = ["HardMaskDetector", "full_detector"]

_FLOOR = 60.0  # RGB distance to the background below which nothing is foreground
_SHARE = 0.45  # of the contrast nearby that makes a pixel foreground; not 1/2, where edges between pixels tie
_FRAGMENT = 7.0  # foreground of this area that is no object is unexplained, in square world units
_COLOR_DISTANCE = 55.0  # RGB, from the mean of the inner pixels to the palette, at most
_PURITY = 0.75  # share of the inner pixels that are nearest to the object's colour, at least
_TOLERANCE = 0.005  # of the moments, beyond what clean pictures show
_IN_PLANE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])


class HardMaskDetector(Detector):
    """Detector A.

    Args:
        look: The world to look at.
    """

    def __init__(self, look: Look = QUICK) -> None:
        self.look = look

    def detect_batch(self, images: np.ndarray) -> list[Detection]:
        """Return what is in each picture, uint8 (B, H, H, 3)."""
        scale = check_images(images, self.look.units)
        pixels = images.astype(np.float32)
        border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)  # (B, 4H, 3)
        background = np.median(border, 1)
        contrast = np.sqrt(((pixels - background[:, None, None]) ** 2).sum(-1))  # (B, H, H)
        reach = 2 * int(3 * scale) + 1
        mask = (contrast > _SHARE * ndimage.maximum_filter(contrast, (1, reach, reach))) & (contrast > _FLOOR)
        labels, count = ndimage.label(mask, _IN_PLANE)
        picture, rows, columns = np.nonzero(labels)
        region = labels[picture, rows, columns] - 1  # of each foreground pixel
        inner = _inner(mask, labels, scale, self.look)[picture, rows, columns]
        color, pure = _colors(pixels[picture, rows, columns][inner], region[inner], count, self.look.palette)
        area = np.bincount(region, minlength=count) / scale**2
        shape, deviation = _shapes(region, rows, columns, count, self.look)
        smallest, largest = self.look.hard_areas
        good = (area >= smallest) & (area <= largest) & pure & (deviation <= self.look.deviation)
        found: list[list[Detected]] = [[] for _ in images]
        unexplained = [False] * len(images)
        names = tuple(self.look.colors)
        for index, box in enumerate(ndimage.find_objects(labels, count)):
            number = box[0].start
            if good[index]:
                edges = (box[2].start, box[1].start, box[2].stop - 1, box[1].stop - 1)
                kind, cell = self.look.shapes[shape[index]], self.look.cell(edges, images.shape[1])
                score = float(np.exp(-deviation[index] / 200))
                found[number].append(Detected(kind, names[color[index]], cell, edges, score))
            elif area[index] >= _FRAGMENT:
                unexplained[number] = True
        return [
            Detection(tuple(sorted(objects, key=lambda o: -o.score)), tuple(color), flag)
            for objects, color, flag in zip(found, background.tolist(), unexplained, strict=True)
        ]


def full_detector() -> HardMaskDetector:
    """Return detector A of the full world."""
    return HardMaskDetector(FULL)


def _inner(mask: np.ndarray, labels: np.ndarray, scale: float, look: Look) -> np.ndarray:
    """Return the pixels that are away from their object's edge, (B, H, H); all of them where a fine object has none."""
    inner = ndimage.binary_erosion(mask, _IN_PLANE, round(scale))
    if look.fine:
        thick = np.zeros(labels.max() + 1, bool)
        thick[labels[inner]] = True
        inner |= mask & ~thick[labels]
    return inner


def _colors(pixels: np.ndarray, region: np.ndarray, count: int, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour that most inner pixels of each region are nearest to (N,), and whether it is a clear one (N,).

    Args:
        pixels: Inner pixels of all regions, (P, 3).
        region: Region of each, (P,).
        count: Number of regions N.
        palette: Colours, (K, 3).
    """
    votes = np.zeros((count, len(palette)))
    np.add.at(votes, (region, ((pixels[:, None] - palette) ** 2).sum(-1).argmin(1)), 1)
    total = np.maximum(votes.sum(1), 1)
    mean = np.stack([np.bincount(region, pixels[:, channel], count) for channel in range(3)], 1) / total[:, None]
    color = votes.argmax(1)
    distance = np.linalg.norm(palette[color] - mean, axis=1)
    return color, (votes.max(1) >= _PURITY * total) & (distance <= _COLOR_DISTANCE)


def _shapes(
    region: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shape whose moments are nearest to each region's, (N,), and the squared distance, (N,)."""
    means, precision = _statistics(look)
    offset = _moments(region, rows, columns, count)[:, None] - means  # (N, S, 9)
    deviation = np.einsum("nsi,sij,nsj->ns", offset, precision, offset)
    return deviation.argmin(1), deviation.min(1, initial=np.inf)


def _moments(region: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    """Return central moments up to degree 4 of masks, in units of the square root of their area: (N, 9).

    With z = x + iy: |z|^2, Re z^4, |z|^4, and real and imaginary part of z^2, z^3 and |z|^2 z. They tell, free of size,
    how far the mass spreads and how symmetric it is by halves, thirds and quarters.

    Args:
        region: Mask of each pixel, (P,).
        rows: Its row, (P,).
        columns: Its column, (P,).
        count: Number of masks N.
    """
    area = np.bincount(region, minlength=count)
    x, y = (axis - (np.bincount(region, axis, count) / area)[region] for axis in (columns, rows))
    z = (x + 1j * y) / np.sqrt(area)[region]
    square, spread = z * z, np.abs(z) ** 2
    third, lean = square * z, spread * z
    even = (spread, (square * square).real, spread * spread)
    odd = (square.real, square.imag, third.real, third.imag, lean.real, lean.imag)
    return np.stack([np.bincount(region, values, count) / area for values in (*even, *odd)], 1)


@lru_cache
def _statistics(look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (S, 9) and inverse covariance (S, 9, 9) of the shapes' moments over radii and subpixel places.

    Few shapes share one covariance; eight need their own, or small crosses are nearer to diamonds.
    """
    low, high = look.radii
    middle = math.ceil(high) + 3
    steps = np.arange(middle, middle + 1, 0.125)
    radius, x, y = (axis.ravel() for axis in np.meshgrid(np.arange(low, high + 0.1, 0.5), steps, steps))
    moments = []
    for shape in look.shapes:
        which, rows, columns = np.nonzero(look.coverage(shape, x, y, radius, 2 * middle, 2 * middle) > _SHARE)
        moments.append(_moments(which, rows, columns, len(radius)))
    covariances = np.stack([np.cov(values.T) for values in moments])
    if not look.fine:
        covariances[:] = covariances.mean(0)
    return np.mean(moments, 1), np.linalg.inv(covariances + _TOLERANCE**2 * np.eye(9))
