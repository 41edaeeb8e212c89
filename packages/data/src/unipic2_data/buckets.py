"""The sizes that batches may have, and which of them suits a picture.

A bucket is one aspect ratio at one resolution: about ``resolution ** 2`` pixels, both edges multiples of what the model
can make. A picture goes to the highest resolution at which it need not be enlarged, and there to the bucket of the
nearest aspect ratio. A picture that would have to be enlarged everywhere is left out, unless `upscale` is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from unipic2_data.errors import DataError

__all__ = ["BucketSizes", "Buckets"]

ASPECTS = ("1:1", "4:3", "3:2", "16:9")
_AT_ONCE = 2**20  # pictures that are looked at together: memory stays small


@dataclass
class Buckets:
    """Aspect buckets, as a recipe names them.

    Attributes:
        resolutions: Square roots of the pixels of a batch's pictures, for example ``[256, 512, 1024]``.
        aspects: Width to height, such as "4:3"; each stands for its transpose too.
        upscale: Whether pictures too small for the lowest resolution are enlarged to it, instead of left out.
    """

    resolutions: list[int]
    aspects: list[str] = field(default_factory=lambda: list(ASPECTS))
    upscale: bool = False


class BucketSizes:
    """The buckets of a model.

    Args:
        buckets: What is wanted.
        multiple: What edges are multiples of, from the model's configs, in pixels.

    Raises:
        DataError: If a resolution or an aspect ratio is impossible.
    """

    def __init__(self, buckets: Buckets, multiple: int) -> None:
        if not buckets.resolutions or not buckets.aspects or multiple < 1:
            msg = f"buckets need resolutions, aspects and a multiple; got {buckets} and {multiple}."
            raise DataError(msg)
        self._upscale = buckets.upscale
        ratios = {one for ratio in map(_ratio, buckets.aspects) for one in (ratio, 1 / ratio)}
        self.sizes: list[tuple[int, int]] = []  # (H, W), from the lowest resolution up
        self._levels: list[list[int]] = []  # numbers of the sizes of each resolution, from tall to wide
        for resolution in sorted(set(buckets.resolutions)):
            if resolution < multiple:
                msg = f"resolution {resolution} is below {multiple} pixels, the smallest edge that the model can make."
                raise DataError(msg)
            level = sorted({_size(resolution, float(ratio), multiple) for ratio in ratios}, key=_aspect)
            self.sizes += [size for size in level if size not in self.sizes]
            self._levels.append([self.sizes.index(size) for size in level])

    def assign(self, pictures: np.ndarray) -> np.ndarray:
        """Return the bucket of each picture.

        Args:
            pictures: Height and width of each, (N, 2).

        Returns:
            Number in `sizes`, int16 (N,); -1 = the picture is too small, -2 = its size is not known (0).
        """
        parts = [self._assign(pictures[at : at + _AT_ONCE]) for at in range(0, len(pictures), _AT_ONCE)]
        return np.concatenate([*parts, np.zeros(0, np.int16)])

    def _assign(self, pictures: np.ndarray) -> np.ndarray:
        height, width = pictures[:, 0], pictures[:, 1]
        aspect = width.astype(np.float32) / np.maximum(height, 1).astype(np.float32)
        found = np.full(len(pictures), -1, np.int16)
        for lowest, level in enumerate(self._levels):  # a higher resolution that fits replaces a lower one
            edges = np.array([self.sizes[number] for number in level])
            ratios = edges[:, 1] / edges[:, 0]
            nearest = np.zeros(len(pictures), np.int8)
            for border in np.sqrt(ratios[1:] * ratios[:-1]).astype(np.float32):  # halfway between the logarithms
                nearest += aspect > border
            best = np.array(level, np.int16)[nearest]
            if not (self._upscale and lowest == 0):
                fits = (height >= edges[:, 0][nearest]) & (width >= edges[:, 1][nearest])
                best = np.where(fits, best, found)
            found = best
        found[(height == 0) | (width == 0)] = -2
        return found


def _ratio(aspect: str) -> Fraction:
    width, _, height = aspect.partition(":")
    try:
        ratio = Fraction(int(width), int(height))
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(0)
    if ratio <= 0:
        msg = f"{aspect!r} is no aspect ratio; expected width to height, for example 4:3."
        raise DataError(msg)
    return ratio


def _aspect(size: tuple[int, int]) -> float:
    return size[1] / size[0]


def _size(resolution: int, ratio: float, multiple: int) -> tuple[int, int]:
    """Return the size of about resolution ** 2 pixels and an aspect ratio, edges rounded to the multiple."""
    height, width = (
        max(multiple, multiple * math.floor(edge / multiple + 0.5))
        for edge in (resolution / math.sqrt(ratio), resolution * math.sqrt(ratio))
    )
    return height, width
