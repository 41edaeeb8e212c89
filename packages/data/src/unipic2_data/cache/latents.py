"""Latents of a picture in the cache: mean and log-variance of the autoencoder's posterior, unscaled.

The key of a record is everything that the latents depend on beside encoder and transform, which are the whole cache's:
sample key, kind, role (target, ref_0, ...), size, orientation, and a checksum of the sample's encoded pictures. So two
edits of one target have records of their own, and a picture that was replaced under its old name is not found.

Legend: C latent channels, h/w latent height/width.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from unipic2_data.cache.records import record_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from unipic2_data.sample import Sample

__all__ = ["DTYPES", "RoundingError", "from_bytes", "keys_of", "latents_from_bytes", "latents_to_bytes", "to_bytes"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SHAPE_BYTES = 16


class RoundingError:
    """How far stored values are from the encoder's: root mean square of the difference over that of the values."""

    def __init__(self) -> None:
        self.difference = self.square = 0.0

    def add(self, values: Tensor, stored: Tensor) -> None:
        """Take in values and what is read back for them."""
        self.difference += float((values.double() - stored.double()).square().sum())
        self.square += float(values.double().square().sum())

    @property
    def relative(self) -> float:
        """0 for exact storage."""
        return math.sqrt(self.difference / self.square) if self.square else 0.0


def keys_of(sample: Sample, size: tuple[int, int], *, flipped: bool = False) -> list[tuple[int, int]]:
    """Return the record keys of a sample's pictures: target first, then references.

    Args:
        sample: The sample, pictures still encoded.
        size: (H, W) in pixels that the transform brings it to.
        flipped: Whether its pictures are mirrored.
    """
    roles = ([] if sample.target is None else ["target"]) + [f"ref_{n}" for n in range(len(sample.references))]
    pictures = ([] if sample.target is None else [sample.target]) + sample.references
    checksum = _checksum(image.data for image in pictures)
    orientation = "flipped" if flipped else "plain"
    return [record_key(sample.key, sample.kind, role, size[0], size[1], orientation, checksum) for role in roles]


def to_bytes(values: Tensor) -> bytes:
    """Return the bytes of a tensor on the CPU, of any dtype."""
    return values.contiguous().view(torch.uint8).numpy().tobytes() if values.numel() else b""


def from_bytes(data: bytes | memoryview, dtype: torch.dtype, shape: Iterable[int]) -> Tensor:
    """Return the tensor of `to_bytes`; it owns its memory."""
    if not len(data):
        return torch.zeros(*shape, dtype=dtype)
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(dtype).reshape(*shape)


def latents_to_bytes(moments: Tensor, dtype: str) -> bytes:
    """Return a record of moments (2, C, h, w): their shape, the mean, the log-variance."""
    return np.array(moments.shape, np.uint32).tobytes() + to_bytes(moments.to(DTYPES[dtype]))


def latents_from_bytes(data: bytes, dtype: str) -> Tensor:
    """Return the moments (2, C, h, w) of a record, in the cache's dtype."""
    shape = np.frombuffer(data[:_SHAPE_BYTES], np.uint32).tolist()
    return from_bytes(memoryview(data)[_SHAPE_BYTES:], DTYPES[dtype], shape)


def _checksum(parts: Iterable[bytes]) -> str:
    value, length = 0, 0
    for part in parts:
        value, length = zlib.crc32(part, value), length + len(part)
    return f"{value:08x}-{length}"
