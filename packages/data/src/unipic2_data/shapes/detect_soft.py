"""Detector B: soft alpha. Used for evaluation; see `detect`.

Every pixel is explained as background plus alpha times the difference to one palette colour. Connected regions of high
alpha are objects to be; each region's soft alpha is compared with analytic templates of the four shapes at the region's
own centre of mass and of the radius that its mass implies. The score is the soft overlap times the share of the region
that has the object's colour.

Legend: B pictures, H height and width, N regions, P side of a region's patch, S shapes, K colours.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from unipic2_data.shapes.detect import Detected, Detection, Detector, check_images
from unipic2_data.shapes.render import AREA, CENTROID, coverage
from unipic2_data.shapes.scene import COLORS, SHAPES

__all__ = ["SoftAlphaDetector"]

_WORK_SIZE = 64  # larger pictures are averaged down to this: finer detail does not change a scene
_ALPHA = 0.5
_KEEP = 0.75  # score of an object, at least
_RADIUS = (4.2, 7.8)  # world units; true radii are 5-7
_FRAGMENT = 7.0  # a region of this area that is no object is unexplained, in square world units
_GHOST = (40.0, 12.0)  # so is RGB distance to the background above the first over an area above the second
_RESIDUE = 60.0  # RGB distance of a core to its palette colour, at most
_REACH = 3.0  # how far a region's blur may reach, world units
_PATCH = 22.0  # side of a region's patch, world units
_PLANE = np.array([[[0] * 3] * 3, [[1] * 3] * 3, [[0] * 3] * 3])
_PALETTE = np.array(list(COLORS.values()), np.float32)
_COLOR_NAMES = tuple(COLORS)


class SoftAlphaDetector(Detector):
    """Detector B."""

    def detect_batch(self, images: np.ndarray) -> list[Detection]:
        """Return what is in each picture, uint8 (B, H, H, 3)."""
        scale = check_images(images)
        pool = max(1, images.shape[1] // _WORK_SIZE) if images.shape[1] % _WORK_SIZE == 0 else 1
        pixels = _smooth(_pool(images, pool), scale / pool)
        background = _background(pixels)
        found, unexplained = _regions(pixels, background, scale / pool, pool)
        return [
            Detection(tuple(sorted(objects, key=lambda o: -o.score)), tuple(color), bool(flag))
            for objects, color, flag in zip(found, background.tolist(), unexplained, strict=True)
        ]


def _regions(
    pixels: np.ndarray, background: np.ndarray, scale: float, pool: int
) -> tuple[list[list[Detected]], np.ndarray]:
    difference = pixels - background[:, None, None]  # (B, H, H, 3)
    directions = _PALETTE - background[:, None]  # (B, K, 3)
    alpha, color = _explain(difference, directions)
    labels, count = ndimage.label(alpha > _ALPHA, _PLANE)
    reach = _grow(labels, round(_REACH * scale))
    found: list[list[Detected]] = [[] for _ in pixels]
    kept = np.zeros(count + 1, bool)
    fragment = np.zeros(len(pixels), bool)
    if count:
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:] / scale**2
        picture = np.zeros(count, np.int64)
        where = np.nonzero(labels)
        picture[labels[where] - 1] = where[0]
        # The colour of a region is the vote of its pixels; its alpha is taken along that colour.
        votes = np.bincount((labels[where] - 1) * len(_PALETTE) + color[where], minlength=count * len(_PALETTE))
        votes = votes.reshape(count, -1)
        colors = votes.argmax(1)
        purity = votes.max(1) / votes.sum(1)
        along = np.concatenate([np.zeros((1, 3), np.float32), directions[picture, colors]])[reach]  # (B, H, H, 3)
        own = np.clip((difference * along).sum(-1) / np.maximum((along * along).sum(-1), 1), 0, 1)
        residue = _core_residue(difference, along, own, labels, count)
        shapes, overlap, radius = _fit_shapes(own, reach, picture, count, scale)
        score = overlap * purity
        good = (score >= _KEEP) & (radius >= _RADIUS[0]) & (radius <= _RADIUS[1]) & (residue <= _RESIDUE)
        kept[1:] = good
        np.logical_or.at(fragment, picture[~good & (area >= _FRAGMENT)], True)
        boxes = ndimage.find_objects(labels, count)
        for index in np.flatnonzero(good):
            box = tuple(pool * edge for edge in (boxes[index][2].start, boxes[index][1].start))
            far = tuple(pool * edge - 1 for edge in (boxes[index][2].stop, boxes[index][1].stop))
            middle = pool * pixels.shape[1] - 1
            cell = 2 * (box[1] + far[1] > middle) + (box[0] + far[0] > middle)
            found[picture[index]].append(
                Detected(SHAPES[shapes[index]], _COLOR_NAMES[colors[index]], cell, box + far, float(score[index]))
            )
    ghost = (np.sqrt((difference**2).sum(-1)) > _GHOST[0]) & ~kept[reach]
    return found, fragment | (ghost.sum((1, 2)) > _GHOST[1] * scale**2)


def _explain(difference: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha (B, H, H) and colour (B, H, H) of the palette colour that explains each pixel best."""
    flat = difference.reshape(len(difference), -1, 3)
    dots = flat @ directions.transpose(0, 2, 1)  # (B, HH, K)
    lengths = (directions**2).sum(-1)[:, None]  # (B, 1, K)
    alphas = np.clip(dots / lengths, 0, 1)
    errors = alphas * (alphas * lengths - 2 * dots)  # squared distance of the explanation, but for a constant
    color = errors.argmin(-1)
    alpha = np.take_along_axis(alphas, color[..., None], -1)[..., 0]
    shape = difference.shape[:3]
    return alpha.reshape(shape), color.reshape(shape)


def _core_residue(
    difference: np.ndarray, along: np.ndarray, own: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """Return the RGB distance between each region's colour, where it is at full strength, and its palette colour."""
    core = np.flatnonzero((labels > 0) & (own > 0.85))
    which = labels.ravel()[core] - 1
    error = (difference - along).reshape(-1, 3)[core]
    total = np.stack([np.bincount(which, error[:, channel], count) for channel in range(3)], 1)
    pixels = np.bincount(which, minlength=count)[:, None]
    return np.where(pixels[:, 0] > 0, np.linalg.norm(total / np.maximum(pixels, 1), axis=1), np.inf)


def _fit_shapes(
    own: np.ndarray, reach: np.ndarray, picture: np.ndarray, count: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return best shape (N,), its soft overlap (N,) in [0, 1], and its radius (N,) in world units."""
    side = own.shape[1]
    masses, xs, ys = _moments(own, reach, count)
    patch = round(_PATCH * scale)
    left, top = np.rint(xs - patch / 2).astype(np.int64), np.rint(ys - patch / 2).astype(np.int64)
    rows, columns = top[:, None] + np.arange(patch), left[:, None] + np.arange(patch)  # (N, P)
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None]
    index = (picture[:, None, None], rows.clip(0, side - 1)[:, :, None], columns.clip(0, side - 1)[:, None])
    mine = inside & (reach[index] == np.arange(1, count + 1)[:, None, None])
    alpha = np.where(mine, own[index], 0)  # (N, P, P)
    overlaps, radii = [], []
    for shape in SHAPES:
        radius = np.sqrt(masses / AREA[shape])
        template = coverage(shape, xs - left, ys - top - CENTROID[shape] * radius, radius, patch, patch)
        template = _smooth(template[..., None], scale)[..., 0]
        overlaps.append(np.minimum(alpha, template).sum((1, 2)) / np.maximum(alpha, template).sum((1, 2)))
        radii.append(radius / scale)
    best = np.argmax(overlaps, 0)
    return best, np.max(overlaps, 0), np.stack(radii)[best, np.arange(count)]


def _moments(own: np.ndarray, reach: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mass (N,) in square pixels and centre of mass x, y (N,) in pixels of every region's soft alpha."""
    _, rows, columns = np.nonzero(reach)
    which, weight = reach[reach > 0] - 1, own[reach > 0]
    mass = np.maximum(np.bincount(which, weight, count), 1e-6)
    x = np.bincount(which, weight * (columns + 0.5), count) / mass
    y = np.bincount(which, weight * (rows + 0.5), count) / mass
    return mass, x, y


def _grow(labels: np.ndarray, steps: int) -> np.ndarray:
    """Give every pixel within `steps` of a region to it; where two meet, each keeps what it reached first."""
    for _ in range(steps):
        labels = np.where(labels == 0, ndimage.maximum_filter(labels, (1, 3, 3)), labels)
    return labels


def _background(pixels: np.ndarray) -> np.ndarray:
    """Return the mean of the border's pixels that agree with its median, (B, 3)."""
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    median = np.median(border, 1, keepdims=True)
    agree = (np.abs(border - median).max(-1, keepdims=True) <= 30).astype(np.float32)
    return ((border * agree).sum(1) + median[:, 0]) / (agree.sum(1) + 1)


def _pool(images: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels: float32 (B, H / factor, H / factor, 3)."""
    if factor == 1:
        return images.astype(np.float32)
    B, H, _, C = images.shape
    return images.reshape(B, H // factor, factor, H // factor, factor, C).mean((2, 4), dtype=np.float32)


def _smooth(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Blur (B, H, W, C) by 0.7 world units: passes of [1, 2, 1] / 4 along H and W; the edge repeats."""
    for _ in range(max(1, round(scale**2))):
        padded = np.pad(pixels, ((0, 0), (1, 1), (0, 0), (0, 0)), "edge")
        pixels = (padded[:, :-2] + 2 * pixels + padded[:, 2:]) / 4
        padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (0, 0)), "edge")
        pixels = (padded[:, :, :-2] + 2 * pixels + padded[:, :, 2:]) / 4
    return pixels
