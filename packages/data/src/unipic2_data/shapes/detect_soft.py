"""Detector B: soft alpha. Used for evaluation; see `detect`.

Every pixel is explained as background plus alpha times the difference to one palette colour. Connected regions of high
alpha are objects to be; each region's soft alpha is compared with analytic templates of the shapes at the region's
own centre of mass and of the radius that its mass implies. The score is the soft overlap times the share of the region
that has the object's colour.

Legend: B pictures, H height and width, N regions, P side of a region's patch, S shapes, K colours.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from unipic2_data.shapes.detect import Detected, Detection, Detector, check_images
from unipic2_data.shapes.look import FULL, QUICK, Look

__all__ = ["SoftAlphaDetector", "full_detector"]

_WORK_SIZE = 64  # larger pictures are averaged down to this: finer detail does not change a scene
_ALPHA = 0.5
_FRAGMENT = 7.0  # a region of this area that is no object is unexplained, in square world units
_GHOST = (40.0, 12.0)  # so is RGB distance to the background above the first over an area above the second
_RESIDUE = 60.0  # RGB distance of a core to its palette colour, at most, or as much as the core's alpha implies
_REACH = 3.0  # how far a region's blur may reach, world units
_PLANE = np.array([[[0] * 3] * 3, [[1] * 3] * 3, [[0] * 3] * 3])


class SoftAlphaDetector(Detector):
    """Detector B.

    Args:
        look: The world to look at.
    """

    def __init__(self, look: Look = QUICK) -> None:
        self.look = look

    def detect_batch(self, images: np.ndarray) -> list[Detection]:
        """Return what is in each picture, uint8 (B, H, H, 3)."""
        scale = check_images(images, self.look.units)
        pool = max(1, images.shape[1] // _WORK_SIZE) if images.shape[1] % _WORK_SIZE == 0 else 1
        pixels = _smooth(_pool(images, pool), scale / pool)
        background = _background(pixels)
        found, unexplained = _regions(pixels, background, scale / pool, pool, self.look)
        return [
            Detection(tuple(sorted(objects, key=lambda o: -o.score)), tuple(color), bool(flag))
            for objects, color, flag in zip(found, background.tolist(), unexplained, strict=True)
        ]


def full_detector() -> SoftAlphaDetector:
    """Return detector B of the full world."""
    return SoftAlphaDetector(FULL)


def _regions(
    pixels: np.ndarray, background: np.ndarray, scale: float, pool: int, look: Look
) -> tuple[list[list[Detected]], np.ndarray]:
    difference = pixels - background[:, None, None]  # (B, H, H, 3)
    palette = look.palette
    directions = palette - background[:, None]  # (B, K, 3)
    alpha, color = _explain(difference, directions, look.contrast)
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
        votes = np.bincount((labels[where] - 1) * len(palette) + color[where], minlength=count * len(palette))
        votes = votes.reshape(count, -1)
        colors = votes.argmax(1)
        purity = votes.max(1) / votes.sum(1)
        along = np.concatenate([np.zeros((1, 3), np.float32), directions[picture, colors]])[reach]  # (B, H, H, 3)
        dots, lengths = (np.einsum("bhwc,bhwc->bhw", along, other) for other in (difference, along))
        own = np.clip(dots / np.maximum(lengths, 1), 0, 1)
        residue = _core_residue(difference, along, own, labels, count, look.core)
        shapes, overlap, radius = _fit_shapes(own, reach, picture, count, scale, look)
        score = overlap * purity
        low, high = look.soft_radii
        limit = np.maximum(_RESIDUE, (1 - look.core) * np.linalg.norm(directions[picture, colors], axis=-1))
        good = (score >= look.keep) & (radius >= low) & (radius <= high) & (residue <= limit)
        kept[1:] = good
        doubtful = (good & (score < look.sure)) | (~good & (area >= _FRAGMENT))
        np.logical_or.at(fragment, picture[doubtful], True)
        boxes, names = ndimage.find_objects(labels, count), tuple(look.colors)
        for index in np.flatnonzero(good):
            _, rows, columns = boxes[index]
            box = (pool * columns.start, pool * rows.start, pool * columns.stop - 1, pool * rows.stop - 1)
            cell = look.cell(box, pool * pixels.shape[1])
            shape, color_name = look.shapes[shapes[index]], names[colors[index]]
            found[picture[index]].append(Detected(shape, color_name, cell, box, float(score[index])))
    ghost = (np.einsum("bhwc,bhwc->bhw", difference, difference) > _GHOST[0] ** 2) & ~kept[reach]
    return found, fragment | (ghost.sum((1, 2)) > _GHOST[1] * scale**2)


def _explain(difference: np.ndarray, directions: np.ndarray, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha (B, H, H) and colour (B, H, H) of the palette colour that explains each pixel best.

    Colours that are nearer to the background than the contrast explain nothing.
    """
    strength = np.einsum("bhwc,bhwc->bhw", difference, difference)
    # Less than half of the contrast is alpha below a half, which no region has.
    where = np.nonzero(strength >= (_ALPHA * contrast) ** 2)
    seen, toward = difference[where], directions[where[0]]  # (P, 3), (P, K, 3)
    dots = np.einsum("pc,pkc->pk", seen, toward)
    lengths = np.einsum("bkc,bkc->bk", directions, directions)[where[0]]  # (P, K)
    alphas = np.clip(dots / np.maximum(lengths, 1), 0, 1)
    errors = alphas * (alphas * lengths - 2 * dots)  # squared distance of the explanation, but for a constant
    errors = np.where(lengths < contrast**2, np.inf, errors)
    color = errors.argmin(-1)
    every_alpha, every_color = np.zeros(strength.shape, np.float32), np.zeros(strength.shape, np.int64)
    every_alpha[where], every_color[where] = np.take_along_axis(alphas, color[:, None], -1)[:, 0], color
    return every_alpha, every_color


def _core_residue(
    difference: np.ndarray, along: np.ndarray, own: np.ndarray, labels: np.ndarray, count: int, full: float
) -> np.ndarray:
    """Return the RGB distance between each region's colour, where it is at full strength, and its palette colour."""
    core = np.flatnonzero((labels > 0) & (own > full))
    which = labels.ravel()[core] - 1
    error = (difference - along).reshape(-1, 3)[core]
    total = np.stack([np.bincount(which, error[:, channel], count) for channel in range(3)], 1)
    pixels = np.bincount(which, minlength=count)[:, None]
    return np.where(pixels[:, 0] > 0, np.linalg.norm(total / np.maximum(pixels, 1), axis=1), np.inf)


def _fit_shapes(
    own: np.ndarray, reach: np.ndarray, picture: np.ndarray, count: int, scale: float, look: Look
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return best shape (N,), its soft overlap (N,) in [0, 1], and its radius (N,) in world units."""
    side = own.shape[1]
    masses, xs, ys = _moments(own, reach, count)
    patch = round(look.patch * scale)
    left, top = np.rint(xs - patch / 2).astype(np.int64), np.rint(ys - patch / 2).astype(np.int64)
    rows, columns = top[:, None] + np.arange(patch), left[:, None] + np.arange(patch)  # (N, P)
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None]
    index = (picture[:, None, None], rows.clip(0, side - 1)[:, :, None], columns.clip(0, side - 1)[:, None])
    mine = inside & (reach[index] == np.arange(1, count + 1)[:, None, None])
    alpha = np.where(mine, own[index], 0)  # (N, P, P)
    radii = np.sqrt(masses / np.array(list(look.area.values()))[:, None])  # (S, N)
    sharp = []
    for shape, radius in zip(look.shapes, radii, strict=True):
        right, down = look.centroid[shape]
        sharp.append(look.coverage(shape, xs - left - right * radius, ys - top - down * radius, radius, patch, patch))
    templates = _smooth(np.concatenate(sharp)[..., None], scale).reshape(len(sharp), *alpha.shape)  # (S, N, P, P)
    overlaps = np.stack([np.minimum(alpha, t).sum((1, 2)) / np.maximum(alpha, t).sum((1, 2)) for t in templates])
    best = np.argmax(overlaps, 0)
    return best, np.max(overlaps, 0), radii[best, np.arange(count)] / scale


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
        padded = np.concatenate([pixels[:, :1], pixels, pixels[:, -1:]], 1)
        pixels = (padded[:, :-2] + 2 * pixels + padded[:, 2:]) / 4
        padded = np.concatenate([pixels[:, :, :1], pixels, pixels[:, :, -1:]], 2)
        pixels = (padded[:, :, :-2] + 2 * pixels + padded[:, :, 2:]) / 4
    return pixels
