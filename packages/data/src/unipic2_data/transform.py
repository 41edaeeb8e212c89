"""Bring pictures of any size to one size, the target and its reference by the very same crop and scale.

The picture is scaled until it just covers the wanted size, and what sticks out is cut off evenly (centre crop). A pair
is treated as one: its crop is computed once, from the target, so an identical pair stays identical and nothing shifts
between the two. A reference of another size is accepted if its aspect ratio is the target's within 1 %: it gets the
same crop in relative coordinates. Any other reference is an error here, and is left out by `unipic2-data import`.

Pictures that do not cover the size are enlarged if the transform may do that, as it does at one fixed size;
``meta["upscale"]`` of the sample then holds the factor. Buckets choose a size that the picture covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from unipic2_data.quarantine import BadSample

if TYPE_CHECKING:
    from unipic2_data.images import Raster

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
        upscale: Whether a picture that does not cover the size may be enlarged.
    """

    identity: ClassVar[str] = "cover, centre crop, Lanczos; JPEG decoded at 1/2, 1/4 or 1/8 where that covers the size"
    """What the pixels depend on beside the size: caches of encoded pictures compare it."""

    size: tuple[int, int]
    upscale: bool = True

    def __call__(self, target: Raster, references: list[Raster]) -> tuple[np.ndarray, list[np.ndarray], float]:
        """Return target and references at the wanted size.

        Args:
            target: The target, of height h and width w.
            references: The references.

        Returns:
            Target and references, uint8 (H, W, 3), and the scale factor (above 1: the target was enlarged).

        Raises:
            BadSample: If a reference has another aspect ratio than the target, or the target is too small.
        """
        height, width = target.size
        for reference in references:
            if not same_aspect(reference.size, (height, width)):
                msg = (
                    f"reference of {reference.size[1]}x{reference.size[0]} pixels and target of {width}x{height} "
                    "pixels have different aspect ratios; crop one of them to match, or leave the pair out."
                )
                raise BadSample(msg, "pair with different aspect ratios")
        scale = max(self.size[0] / height, self.size[1] / width)
        if scale > 1 and not self.upscale:
            msg = (
                f"target of {width}x{height} pixels does not cover its bucket of {self.size[1]}x{self.size[0]}: its "
                "JSON names another size. Import it again, or allow upscale."
            )
            raise BadSample(msg, "smaller than its bucket")
        # The part that is kept, centred, in fractions of the picture.
        keep_y, keep_x = self.size[0] / (scale * height), self.size[1] / (scale * width)
        return self._crop(target, keep_y, keep_x), [self._crop(r, keep_y, keep_x) for r in references], scale

    def _crop(self, picture: Raster, keep_y: float, keep_x: float) -> np.ndarray:
        if picture.size == self.size and picture.reduction == 1:
            return picture.pixels
        from PIL import Image

        height, width = (edge / picture.reduction for edge in picture.size)
        left, top = (1 - keep_x) / 2 * width, (1 - keep_y) / 2 * height
        box = (max(left, 0.0), max(top, 0.0), min(width - left, width), min(height - top, height))
        resized = picture.image.resize(self.size[::-1], Image.Resampling.LANCZOS, box=box)
        return np.asarray(resized)
