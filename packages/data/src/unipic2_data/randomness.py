"""Keyed randomness: the only source of randomness of training.

Every random number of a run (order of samples, noise, sigma, dropout, choice of caption, crops, the shapes world
itself) is a pure function of ``(seed, key, visit, purpose)``: the run's seed, the sample's key, how often the sample
was seen before, and what the number is for. It does not depend on the batch, the rank, the number of workers or what
was drawn earlier, and the global generators of Python, numpy and torch are never touched. That is why two processes
train like one and a resumed run goes on exactly.

The generator is numpy's Philox4x64, keyed by a 128-bit BLAKE2b hash: the same bits on every platform.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["keyed_hash", "keyed_normal", "keyed_rng", "keyed_uniform"]


def keyed_hash(*parts: str | int) -> bytes:
    """Return 16 bytes that depend on every part and on where one part ends and the next begins."""
    joined = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")  # JSON of others may hold half a character
    return hashlib.blake2b(joined, digest_size=16).digest()


def keyed_rng(seed: int, key: str, visit: int = 0, purpose: str = "") -> np.random.Generator:
    """Return the generator of one sample, visit and purpose.

    Args:
        seed: Seed of the run or of the data set.
        key: Sample key, or any other name.
        visit: How many times the sample was seen before (its epoch).
        purpose: What the numbers are for; different purposes are independent.

    Returns:
        A fresh counter-based numpy generator.
    """
    return np.random.Generator(np.random.Philox(key=np.frombuffer(keyed_hash(seed, key, visit, purpose), np.uint64)))


def keyed_normal(
    seed: int, keys: Sequence[str], visits: Sequence[int] | torch.Tensor, purpose: str, shape: Sequence[int]
) -> torch.Tensor:
    """Return standard normal numbers, one independent stream per row.

    Args:
        seed: Seed of the run.
        keys: Sample keys, B of them.
        visits: Visits of the samples, B of them.
        purpose: What the numbers are for.
        shape: Shape of one row.

    Returns:
        float32 tensor of shape (B, *shape) on the CPU. Row i depends on ``keys[i]`` and ``visits[i]`` alone.
    """
    import torch

    rows = np.empty((len(keys), int(np.prod(shape))), np.float32)
    for row, key, visit in zip(rows, keys, _as_ints(visits), strict=True):
        keyed_rng(seed, key, visit, purpose).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows.reshape(len(keys), *shape))


def keyed_uniform(seed: int, keys: Sequence[str], visits: Sequence[int] | torch.Tensor, purpose: str) -> torch.Tensor:
    """Return one uniform number in [0, 1) per row: float32 tensor of shape (B,), see `keyed_normal`."""
    import torch

    values = [
        keyed_rng(seed, key, visit, purpose).random(dtype=np.float32)
        for key, visit in zip(keys, _as_ints(visits), strict=True)
    ]
    return torch.from_numpy(np.array(values, np.float32))


def _as_ints(visits: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(visit) for visit in visits]
