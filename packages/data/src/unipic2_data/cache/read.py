"""Training's view of a cache: latents and text embeddings of a batch, in place of pixels and prompts to encode.

Legend: B prompts, C latent channels, h/w latent height/width, L tokens, D width, P pooled width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from unipic2_data.cache import latents, text
from unipic2_data.cache.records import RecordReader
from unipic2_data.errors import DataError
from unipic2_data.quarantine import BadSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from unipic2_data.sample import Sample

__all__ = ["Cache", "CacheConfig"]


@dataclass(frozen=True)
class CacheConfig:
    """A cache to train from, as `lightning run encode` makes it."""

    path: str
    """Folder of the cache."""
    latents: Literal["float32", "bfloat16"] | None = "bfloat16"
    """How latents are stored; ``null``: not at all, pictures are decoded and encoded as they come."""
    text: Literal["float32", "bfloat16", "float8"] | None = "bfloat16"
    """How text embeddings are stored; ``null``: not at all, prompts are encoded as they come."""


class Cache:
    """Reads a cache.

    Args:
        config: Where it is and what is wanted of it.
        transform: Identity of the transform that training would apply to pictures.

    Raises:
        DataError: If something is not there, or was made with another transform or dtype.
    """

    def __init__(self, config: CacheConfig, transform: str) -> None:
        folder = Path(config.path).expanduser()
        self._latents = _open(folder / "latents", "latents", {"transform": transform, "dtype": config.latents})
        self._text = _open(folder / "text", "text embeddings", {"dtype": config.text})

    @property
    def has_latents(self) -> bool:
        """Whether pictures need not be decoded."""
        return self._latents is not None

    @property
    def encoders(self) -> dict[str, str]:
        """Hashes of the encoders that made "latents" and "text": training compares them with its own."""
        readers = {"latents": self._latents, "text": self._text}
        return {name: reader.header["encoder"] for name, reader in readers.items() if reader is not None}

    def moments(self, sample: Sample, size: tuple[int, int], *, flipped: bool = False) -> list[Tensor]:
        """Return mean and log-variance of a sample's pictures, (2, C, h, w) each: the target, then references.

        Args:
            sample: The sample, pictures still encoded.
            size: (H, W) of the batch in pixels.
            flipped: Whether its pictures are mirrored.

        Raises:
            BadSample: If the sample is not in the cache as it is now.
        """
        assert self._latents is not None
        name = f"sample {sample.key} at {size[1]}x{size[0]}{', mirrored' if flipped else ''}"
        try:
            records = [self._latents.read(key, name) for key in latents.keys_of(sample, size, flipped=flipped)]
        except DataError as error:
            raise BadSample(str(error), "not in the cache") from error
        return [latents.latents_from_bytes(record, self._latents.header["dtype"]) for record in records]

    def embeddings(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return embeddings (B, L, D) and pooled embeddings (B, P) of prompts; None without a text cache.

        Raises:
            DataError: If a prompt is not in the cache.
        """
        if self._text is None:
            return None, None
        header = self._text.header
        layout = header["dtype"], tuple(header["shape"]), header["pooled"]
        rows = {prompt: self._text.read(text.text_key(prompt), repr(prompt)) for prompt in prompts}
        embeds, pooled = zip(*(text.text_from_bytes(rows[prompt], *layout) for prompt in prompts), strict=True)
        return torch.stack(embeds), torch.stack(pooled)


def _open(folder: Path, what: str, wanted: dict[str, str | None]) -> RecordReader | None:
    if wanted["dtype"] is None:
        return None
    reader = RecordReader(folder, what)
    different = [
        f"{name} {reader.header.get(name)}, not {value}"
        for name, value in wanted.items()
        if reader.header.get(name) != value
    ]
    if different:
        msg = f"the {what} in {folder} have {' and '.join(different)}. Name the cache as it is, or encode into another."
        raise DataError(msg)
    return reader
