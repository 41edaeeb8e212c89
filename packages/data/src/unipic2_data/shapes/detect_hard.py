"""Detector A: hard masks. Used as a reward; see `detect`.

Foreground is what differs from the border's median colour by about half the contrast found nearby. Each connected
region's colour is the palette entry nearest to most of its inner pixels; its shape is the one whose size-free
moments are nearest by Mahalanobis distance.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from unipic2_data.shapes.detect import Detected, Detection, check_images
from unipic2_data.shapes.render import coverage
from unipic2_data.shapes.scene import COLORS, SHAPES

__all__ = ["HardMaskDetector"]

_FLOOR = 60.0  # RGB distance to the background below which nothing is foreground
_SHARE = 0.45  # of the contrast nearby that makes a pixel foreground; not 1/2, where edges between pixels tie
_AREA = (28.0, 190.0)  # of an object, in square world units
_FRAGMENT = 7.0  # foreground of this area that is no object is unexplained, in square world units
_COLOR_DISTANCE = 70.0  # RGB, from the mean of the inner pixels to the palette, at most
_PURITY = 0.75  # share of the inner pixels that are nearest to the object's colour, at least
_TOLERANCE = 0.005  # of the moments, beyond what clean pictures show
_DEVIATION = 60.0  # squared Mahalanobis distance from a shape's moments, at most; half an object has over 100
_IN_PLANE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])
_PALETTE = np.array(list(COLORS.values()), np.float32)
_COLOR_NAMES = tuple(COLORS)


class HardMaskDetector:
    """Detector A."""

    def detect(self, image: np.ndarray) -> list[Detected]:
        """Return the objects of one picture, uint8 (H, H, 3)."""
        return list(self.detect_batch(image[None])[0].objects)

    def detect_batch(self, images: np.ndarray) -> list[Detection]:
        """Return what is in each picture, uint8 (B, H, H, 3)."""
        scale = check_images(images)
        pixels = images.astype(np.float32)
        border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)  # (B, 4H, 3)
        background = np.median(border, 1)
        contrast = np.sqrt(((pixels - background[:, None, None]) ** 2).sum(-1))  # (B, H, H)
        reach = 2 * int(3 * scale) + 1
        nearby = ndimage.maximum_filter(contrast, (1, reach, reach))
        mask = (contrast > _SHARE * nearby) & (contrast > _FLOOR)
        labels, count = ndimage.label(mask, _IN_PLANE)
        found: list[list[Detected]] = [[] for _ in images]
        unexplained = [False] * len(images)
        for label, box in enumerate(ndimage.find_objects(labels, count), 1):
            region = labels[box][0] == label
            area = region.sum() / scale**2
            if area < _FRAGMENT:
                continue
            number = box[0].start
            core = ndimage.binary_erosion(region, iterations=round(scale))
            result = _classify(region, pixels[box][0][core], area)
            if result is None:
                unexplained[number] = True
                continue
            left, top, right, bottom = box[2].start, box[1].start, box[2].stop - 1, box[1].stop - 1
            middle = images.shape[1] - 1
            cell = 2 * (top + bottom > middle) + (left + right > middle)
            found[number].append(Detected(result[0], result[1], cell, (left, top, right, bottom), result[2]))
        return [
            Detection(tuple(sorted(objects, key=lambda o: -o.score)), tuple(color), flag)
            for objects, color, flag in zip(found, background.tolist(), unexplained, strict=True)
        ]


def _classify(region: np.ndarray, core: np.ndarray, area: float) -> tuple[str, str, float] | None:
    """Return shape, colour and score of a region (h, w) with core pixels (n, 3); None if it is no object."""
    if not _AREA[0] <= area <= _AREA[1] or not len(core):
        return None
    distances = np.linalg.norm(_PALETTE - core[:, None], axis=2)  # (n, K)
    color = int(np.bincount(distances.argmin(1)).argmax())
    alike = (distances.argmin(1) == color).mean() >= _PURITY
    offset = _moments(region) - _MEANS  # (S, 9)
    deviation = np.einsum("si,ij,sj->s", offset, _PRECISION, offset)
    shape = int(deviation.argmin())
    if deviation[shape] > _DEVIATION or not alike or np.linalg.norm(_PALETTE[color] - core.mean(0)) > _COLOR_DISTANCE:
        return None
    return SHAPES[shape], _COLOR_NAMES[color], float(np.exp(-deviation[shape] / 200))


def _moments(region: np.ndarray) -> np.ndarray:
    """Return central moments up to degree 4 of a mask, in units of the square root of its area: (9,).

    With z = x + iy: |z|^2, Re z^4, |z|^4, and real and imaginary part of z^2, z^3 and |z|^2 z. They tell, free of size,
    how far the mass spreads and how symmetric it is by halves, thirds and quarters.
    """
    y, x = np.nonzero(region)
    z = (x - x.mean() + 1j * (y - y.mean())) / np.sqrt(len(x))
    square, spread = z * z, np.abs(z) ** 2
    second, third, lean = square.mean(), (square * z).mean(), (spread * z).mean()
    even = [spread.mean(), (square * square).mean().real, (spread * spread).mean()]
    return np.array([*even, second.real, second.imag, third.real, third.imag, lean.real, lean.imag])


def _statistics() -> tuple[np.ndarray, np.ndarray]:
    """Return mean (S, 9) and shared inverse covariance (9, 9) of the shapes' moments over radii and subpixel places."""
    steps = np.arange(10, 11, 0.125)
    radius, x, y = (axis.ravel() for axis in np.meshgrid(np.arange(5, 7.1, 0.5), steps, steps))
    moments = [[_moments(mask) for mask in coverage(shape, x, y, radius, 20, 20) > _SHARE] for shape in SHAPES]
    covariance = np.mean([np.cov(np.array(rows).T) for rows in moments], 0) + _TOLERANCE**2 * np.eye(9)
    return np.mean(moments, 1), np.linalg.inv(covariance)


_MEANS, _PRECISION = _statistics()
