"""Requests: what a person asks for, one picture each, and what a model makes of it before it starts.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from unipic2_dit.resolution import Sizes
from unipic2_unified.errors import RequestError

__all__ = ["Job", "Request", "Size", "build_requests", "edit_sizes", "picture_digest", "target_size"]

DEFAULT_STEPS = 50
DEFAULT_GUIDANCE = 3.5
MAX_SEED = 2**63 - 1

Size = int | tuple[int, int] | None
"""An edge (a square; of an edit, the longer one), (height, width), or ``None``: the checkpoint's or picture's own."""

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One picture to make.

    Raises:
        RequestError: If steps, guidance or seed are out of their range.
    """

    prompt: str
    """What to make, or how to edit."""
    image: Image.Image | None = None
    """The picture to edit; without it, one is made from the prompt alone."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    size: Size = None
    """The size of the result."""
    steps: int = DEFAULT_STEPS
    """Denoising steps."""
    guidance: float = DEFAULT_GUIDANCE
    """Scale of classifier-free guidance; 1 or less turns it off."""
    seed: int = 0
    """Pins the noise: the same request with the same seed is the same picture, alone or among others."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            msg = f"steps is {self.steps}: sampling takes at least 1 step."
            raise RequestError(msg)
        if not 0 <= self.guidance < float("inf"):
            msg = f"guidance is {self.guidance}: it is a number of at least 0; 1 or less turns guidance off."
            raise RequestError(msg)
        if not 0 <= self.seed <= MAX_SEED:
            msg = f"seed is {self.seed}: it lies between 0 and {MAX_SEED}."
            raise RequestError(msg)


@dataclass(frozen=True)
class Job:
    """A request that a model has checked and will carry out."""

    request: Request
    """What was asked for."""
    size: tuple[int, int]
    """Size of the result."""
    picture: Image.Image | None = None
    """The picture to edit, upright, at the size at which the model sees it."""
    digest: str = ""
    """Hash of that picture."""
    reference_size: tuple[int, int] | None = None
    """Size of the reference in the transformer, or ``None`` if that sees none."""

    @property
    def group(self) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Jobs of the same group can be rows of one state, whatever their steps, guidance, prompts and seeds."""
        return self.size, self.reference_size


def build_requests(
    prompts: str | Sequence[str],
    images: Sequence[Image.Image | None],
    *,
    negative_prompts: str | Sequence[str] | None,
    images_per_prompt: int,
    size: Size,
    steps: int | None,
    guidance: float | None,
    seed: int | Sequence[int] | None,
) -> list[Request]:
    """Return the requests of a call, prompt by prompt.

    Raises:
        RequestError: If the numbers of prompts, images, negative prompts and seeds don't fit each other.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    num_rows = max(len(texts), len(images)) if texts and images else 0
    if not num_rows:
        msg = f"There are {len(texts)} prompts and {len(images)} images: pass at least one of each."
        raise RequestError(msg)
    if images_per_prompt < 1:
        msg = f"images_per_prompt is {images_per_prompt}: ask for at least 1."
        raise RequestError(msg)
    negatives = [negative_prompts or ""] if isinstance(negative_prompts, str | None) else list(negative_prompts)
    rows = zip(
        _spread(texts, num_rows, "prompts"),
        _spread(images, num_rows, "images"),
        _spread(negatives, num_rows, "negative prompts"),
        strict=True,
    )
    repeated = [row for row in rows for _ in range(images_per_prompt)]
    return [
        Request(
            prompt=text,
            image=image,
            negative_prompt=negative,
            size=size,
            steps=DEFAULT_STEPS if steps is None else steps,
            guidance=DEFAULT_GUIDANCE if guidance is None else guidance,
            seed=number,
        )
        for (text, image, negative), number in zip(repeated, _seeds(seed, len(repeated)), strict=True)
    ]


def target_size(sizes: Sizes, size: Size) -> tuple[int, int]:
    """Return the size of a picture that is made from a prompt alone.

    Raises:
        ImpossibleSizeError: If the checkpoint can't make it.
    """
    if size is None:
        return sizes.default
    return sizes.check(*((size, size) if isinstance(size, int) else size))


def edit_sizes(sizes: Sizes, own: tuple[int, int], size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the sizes of an edit's result and of its reference.

    Args:
        sizes: What the checkpoint can make.
        own: Size of the picture.
        size: Wanted size: nothing keeps the picture's own, one edge its aspect ratio.

    Raises:
        ImpossibleSizeError: If the checkpoint can't make it.
    """
    if size is None:
        return sizes.of_edit(own)
    return sizes.of_edit(own, *(sizes.fit_longer_edge(*own, size) if isinstance(size, int) else size))


def picture_digest(picture: Image.Image) -> str:
    """Return a hash of a picture's size and pixels."""
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).hexdigest()


def _spread(values: Sequence[T], num_rows: int, what: str) -> list[T]:
    """Repeat a single value for all rows."""
    if len(values) not in (1, num_rows):
        msg = f"{len(values)} {what} for {num_rows} rows: pass one for all, or one each."
        raise RequestError(msg)
    return list(values) * (num_rows // len(values))


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    if isinstance(seed, int):
        return [seed + index for index in range(count)]
    if len(seed) != count:
        msg = f"{len(seed)} seeds for {count} pictures: pass one number, or one a picture."
        raise RequestError(msg)
    return list(seed)
