"""Text embeddings in the cache: once for each distinct prompt, without the zeros that encoders pad with.

An embedding is a matrix, a row for each token. Encoders of different widths stand in one matrix (CLIP above T5 in SD3)
and leave zeros at the end of the narrow rows, and an encoder that masks padding, or is missing, leaves whole rows of
zeros. Neither is stored. Rows of padding that are not zero stay: SD3's transformer attends to them, and they depend on
the prompt, so training without them is another training.

A record is: rows of each run of equal width and that width, the pooled vector in float32, and the runs' values. In
``float8`` (e4m3) each row has a float32 scale that brings its largest value to 448.

Legend: L tokens, D width, P pooled width.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from unipic2_data.cache.latents import from_bytes, to_bytes
from unipic2_data.cache.records import record_key

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DTYPES", "text_from_bytes", "text_key", "text_to_bytes"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
_LARGEST = 448.0  # of e4m3


def text_key(prompt: str) -> tuple[int, int]:
    """Return the record key of a prompt."""
    return record_key("text", prompt)


def text_to_bytes(embeds: Tensor, pooled: Tensor, dtype: str) -> bytes:
    """Return the record of a prompt.

    Args:
        embeds: Embeddings, (L, D).
        pooled: Pooled embedding, (P,).
        dtype: One of ``DTYPES``.
    """
    embeds = embeds.float()
    used = embeds != 0
    # One past the last value of each row that is not zero; 0 for a row of zeros.
    widths = torch.where(used.any(1), embeds.shape[1] - used.flip(1).int().argmax(1), 0).tolist()
    runs = [(len(list(rows)), width) for width, rows in groupby(widths)]
    parts = [np.array([len(runs), *(number for run in runs for number in run)], np.uint32).tobytes()]
    parts.append(to_bytes(pooled.float()))
    start = 0
    for rows, width in runs:
        block = embeds[start : start + rows, :width]
        start += rows
        if dtype == "float8" and width:
            scale = block.abs().amax(1, keepdim=True) / _LARGEST
            parts.append(to_bytes(scale))
            block = block / scale
        parts.append(to_bytes(block.to(DTYPES[dtype])))
    return b"".join(parts)


def text_from_bytes(data: bytes, dtype: str, shape: tuple[int, int], num_pooled: int) -> tuple[Tensor, Tensor]:
    """Return embeddings (L, D) and pooled embedding (P,) of a record; float8 becomes bfloat16, pooled is float32.

    Args:
        data: The record.
        dtype: Dtype of the cache.
        shape: (L, D).
        num_pooled: P.
    """
    view = memoryview(data)
    (count,) = np.frombuffer(view[:4], np.uint32).tolist()
    runs = np.frombuffer(view[4 : 4 + 8 * count], np.uint32).reshape(-1, 2).tolist()
    position = 4 + 8 * count
    pooled = from_bytes(view[position : position + 4 * num_pooled], torch.float32, (num_pooled,))
    position += 4 * num_pooled
    stored = DTYPES[dtype]
    embeds = torch.zeros(shape, dtype=torch.bfloat16 if dtype == "float8" else stored)
    start = 0
    for rows, width in runs:
        scale = None
        if dtype == "float8" and width:
            scale = from_bytes(view[position : position + 4 * rows], torch.float32, (rows, 1))
            position += 4 * rows
        length = rows * width * stored.itemsize
        block = from_bytes(view[position : position + length], stored, (rows, width))
        position += length
        embeds[start : start + rows, :width] = block if scale is None else block.float() * scale
        start += rows
    return embeds, pooled
