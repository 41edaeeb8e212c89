"""Bring pictures of any size to one size, the target and its reference by the very same crop and scale.

The picture is scaled until it just covers the wanted size, and what sticks out is cut off evenly (centre crop). A pair
is treated as one: its crop is computed once, from the target, so an identical pair stays identical and nothing shifts
between the two. A reference of another size is accepted if its aspect ratio is the target's within 1 %: it gets the
same crop in relative coordinates. Any other reference is an error here, and is left out by `unipic2-data import`.

Small pictures are enlarged as far as the fixed size needs; ``meta["upscale"]`` of the sample then holds the factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unipic2_data.errors import DataError

__all__ = ["Transform", "same_aspect"]

_ASPECT_TOLERANCE = 0.01


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) have the same aspect ratio within 1 %."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= _ASPECT_TOLERANCE


@dataclass(frozen=True)
class Transform:
    """Scale and centre-crop to a size.

    Attributes:
        size: (H, W) in pixels.
    """

    size: tuple[int, int]

    identity: ClassVar[str] = "cover, centre crop, Lanczos (1)"
    """What a cache of latents was made with; raise the number with any change of the pixels that come out."""

    def __call__(self, target: np.ndarray, references: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], float]:
        """Return target and references at the wanted size.

        Args:
            target: uint8 (h, w, 3).
            references: uint8 (h', w', 3) each.

        Returns:
            Target and references, uint8 (H, W, 3), and the scale factor (above 1: the target was enlarged).

        Raises:
            DataError: If a reference has another aspect ratio than the target.
        """
        height, width = target.shape[:2]
        for reference in references:
            if not same_aspect(reference.shape[:2], (height, width)):
                msg = (
                    f"reference of {reference.shape[1]}x{reference.shape[0]} pixels and target of {width}x{height} "
                    "pixels have different aspect ratios; crop one of them to match, or leave the pair out."
                )
                raise DataError(msg)
        scale = max(self.size[0] / height, self.size[1] / width)
        # The part that is kept, centred, in fractions of the picture.
        keep_y, keep_x = self.size[0] / (scale * height), self.size[1] / (scale * width)
        return self._crop(target, keep_y, keep_x), [self._crop(r, keep_y, keep_x) for r in references], scale

    def _crop(self, pixels: np.ndarray, keep_y: float, keep_x: float) -> np.ndarray:
        if pixels.shape[:2] == self.size:
            return pixels
        from PIL import Image

        height, width = pixels.shape[:2]
        left, top = (1 - keep_x) / 2 * width, (1 - keep_y) / 2 * height
        box = (max(left, 0.0), max(top, 0.0), min(width - left, width), min(height - top, height))
        resized = Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.LANCZOS, box=box)
        return np.asarray(resized)
