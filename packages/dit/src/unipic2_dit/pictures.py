"""Pictures as people have them: any mode, turned by the camera, transparent; one or several.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["Pictures", "as_pictures", "own_size", "restore_sizes", "upright_rgb"]

Pictures = list[Image.Image] | Tensor
"""Upright RGB pictures of one size, or pixels in [-1, 1], shape (B, 3, H, W)."""


def as_pictures(image: Image.Image | Sequence[Image.Image] | Tensor | None, num_prompts: int) -> Pictures | None:
    """Return the pictures to edit as upright RGB pictures, or the tensor as it came.

    Args:
        image: One picture, several, or pixels in [-1, 1], shape (B, 3, H, W).
        num_prompts: How many prompts they are for.

    Raises:
        ValueError: If they differ in size, a tensor holds no pixels, or their number does not fit the prompts.
    """
    if image is None:
        return None
    if isinstance(image, Tensor):
        if image.ndim != 4 or image.shape[1] != 3 or image.min() < -1 or image.max() > 1:
            msg = f"An image tensor has shape (B, 3, H, W) and values in [-1, 1]; this one has {tuple(image.shape)}."
            raise ValueError(msg)
        pictures: Pictures = image
    else:
        pictures = [upright_rgb(each) for each in ([image] if isinstance(image, Image.Image) else image)]
        if len({each.size for each in pictures}) > 1:
            msg = f"Pictures of one call need one size, not {[each.size for each in pictures]}: use a call for each."
            raise ValueError(msg)
    if (len(pictures) != num_prompts and 1 not in (len(pictures), num_prompts)) or not len(pictures):
        msg = f"{len(pictures)} pictures for {num_prompts} prompts: pass one for all, or one each."
        raise ValueError(msg)
    return pictures


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture as its camera says and put it on white where it is transparent."""
    picture = ImageOps.exif_transpose(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def own_size(pictures: Pictures) -> tuple[int, int]:
    """Return the (height, width) that the pictures share."""
    if isinstance(pictures, Tensor):
        return pictures.shape[-2], pictures.shape[-1]
    return pictures[0].height, pictures[0].width


def restore_sizes(images: list[Image.Image], pictures: Pictures) -> list[Image.Image]:
    """Resize results to the size that the pictures had."""
    height, width = own_size(pictures)
    return [
        each if each.size == (width, height) else each.resize((width, height), Image.Resampling.LANCZOS)
        for each in images
    ]
