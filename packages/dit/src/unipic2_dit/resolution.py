"""Picture sizes: what a checkpoint can make, and how an input's size is kept.

A picture's edges are multiples of ``VAE factor * patch size`` (16 px for SD3.5). An input keeps its size and aspect
ratio: each edge is rounded to the nearest multiple, and a picture of more pixels than the checkpoint was made for
(``sample_size`` squared) is first scaled down to that many. The picture is resized to the rounded size, never cropped;
rounding changes an edge by at most half a multiple. The original size comes back on request, by resizing the result.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_dit.vae import spatial_factor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["ImpossibleSizeError", "Sizes"]


class ImpossibleSizeError(ValueError):
    """A size that the checkpoint can't make; the message says which are near."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that a checkpoint can make, from its configs."""

    multiple: int
    """Edges are multiples of this, in px: VAE factor times patch size."""
    max_edge: int
    """Longest edge, in px: what the positional table covers."""
    default_edge: int
    """Edge of the square that the checkpoint makes when nobody asks for a size, in px."""

    @classmethod
    def of(cls, transformer: SD3Transformer2DKontextModel, vae: AutoencoderKL) -> Sizes:
        """Derive the sizes from the configs of a transformer and its VAE."""
        factor, config = spatial_factor(vae), transformer.config
        multiple = factor * config.patch_size
        return cls(multiple, multiple * config.pos_embed_max_size, factor * config.sample_size)

    @property
    def default(self) -> tuple[int, int]:
        """The size of a picture when nobody asks for one."""
        return self.check(self._round(self.default_edge), self._round(self.default_edge))

    def check(self, height: int, width: int) -> tuple[int, int]:
        """Return a size as it is.

        Raises:
            ImpossibleSizeError: If an edge is no multiple, too small or too large.
        """
        for name, edge in (("height", height), ("width", width)):
            near = min(max(self._round(edge), self.multiple), self.max_edge)
            if edge != near:
                msg = (
                    f"{name} {edge} is impossible: this checkpoint makes multiples of {self.multiple} from "
                    f"{self.multiple} to {self.max_edge}. The nearest is {near}."
                )
                raise ImpossibleSizeError(msg)
        return height, width

    def keep(self, height: int, width: int, *, pixels: int | None = None) -> tuple[int, int]:
        """Return the possible size nearest to a picture's own.

        Args:
            height: Height of the picture.
            width: Its width.
            pixels: The most pixels; by default those of the default size.

        Raises:
            ImpossibleSizeError: If the picture is so elongated that its shorter edge would vanish.
        """
        limit = pixels or self.default_edge**2
        return self._scaled(height, width, min(1.0, math.sqrt(limit / (height * width))))

    def fit_longer_edge(self, height: int, width: int, longer_edge: int) -> tuple[int, int]:
        """Return the possible size of a picture's aspect ratio whose longer edge is ``longer_edge``.

        Raises:
            ImpossibleSizeError: If that edge is impossible, or the other one would vanish.
        """
        self.check(longer_edge, longer_edge)
        return self._scaled(height, width, longer_edge / max(height, width))

    def of_edit(
        self, own: tuple[int, int], height: int | None = None, width: int | None = None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the sizes of an edit's result and of its reference.

        Asked for another shape, the reference follows in pixels but keeps its own: nothing is cropped or stretched.

        Args:
            own: Size of the picture that is edited.
            height: Height of the result; by default the picture's own, rounded.
            width: Its width, likewise.

        Raises:
            ImpossibleSizeError: If the checkpoint can't make it.
        """
        kept = self.keep(*own)
        target = self.check(height or kept[0], width or kept[1])
        if target == kept or self.fit_longer_edge(*own, max(target)) == target:
            return target, target
        return target, self.keep(*own, pixels=target[0] * target[1])

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        scale = min(scale, self.max_edge / max(height, width))
        if min(height, width) * scale < self.multiple / 2:
            msg = (
                f"A picture of {width}x{height} is too small or too elongated: scaled by {scale:.3g}, its shorter edge "
                f"would be less than half of the {self.multiple} px that one patch spans. Enlarge or crop it first."
            )
            raise ImpossibleSizeError(msg)
        return self._round(height * scale), self._round(width * scale)

    def _round(self, edge: float) -> int:
        return self.multiple * math.floor(edge / self.multiple + 0.5)
