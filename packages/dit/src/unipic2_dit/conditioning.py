"""What the transformer knows of a prompt, whoever encoded it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Conditioning"]


class Conditioning(NamedTuple):
    """Embedded prompts, one a row. Any producer with these two fields serves.

    Legend: B batch, L text tokens.
    """

    prompt_embeds: Tensor
    """One vector a text token, shape (B, L, joint_attention_dim)."""
    pooled_projections: Tensor
    """One vector a prompt, shape (B, pooled_projection_dim)."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Return the rows on another device or in another dtype."""
        return Conditioning(*(part.to(device=device, dtype=dtype) for part in self))

    def rows(self, index: Tensor | slice) -> Conditioning:
        """Return the rows that ``index`` picks (integers, a mask or a slice)."""
        return Conditioning(*(part[index] for part in self))

    def repeat(self, times: int) -> Conditioning:
        """Return each row ``times`` times in succession, shape (B * times, ...)."""
        return Conditioning(*(part.repeat_interleave(times, dim=0) for part in self))

    def where(self, mask: Tensor, other: Conditioning) -> Conditioning:
        """Return these rows where ``mask`` (B,) is true, and those of ``other`` (B or 1 rows) elsewhere."""
        embeds_mask, pooled_mask = mask[:, None, None], mask[:, None]
        return Conditioning(
            torch.where(embeds_mask, self.prompt_embeds, other.prompt_embeds),
            torch.where(pooled_mask, self.pooled_projections, other.pooled_projections),
        )

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """Join rows of the same length L.

        Raises:
            ValueError: If the lengths differ. Padding isn't neutral: the transformer attends to every token.
        """
        lengths = sorted({part.prompt_embeds.shape[1] for part in parts})
        if len(lengths) != 1:
            msg = f"Prompts of {lengths} tokens can't be joined: encode them with the same text length."
            raise ValueError(msg)
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
