"""Rotary positions of tokens, explicit: libraries have changed what they make up when none are given.

Given embeddings instead of ids, transformers 4.55 counted the tokens that the mask shows; 5.x numbers all of them, so
that padding between a prompt and the queries moves the queries.

Legend: B rows, S tokens of a row, padding included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

__all__ = ["Positions", "count_positions", "grid_positions", "token_positions"]

Positions = Literal["1d", "mrope"]
"""``1d``: tokens are counted, as the released model does. ``mrope``: pictures are grids, as Qwen2.5-VL was trained."""


def token_positions(
    mode: Positions,
    model: Qwen2_5_VLForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor,
    image_grid_thw: Tensor | None,
) -> Tensor:
    """Return the positions of all tokens along (time, height, width), shape (3, B, S).

    Args:
        mode: How pictures are numbered.
        model: The VLM, which knows its image token and how many patches make one token.
        input_ids: Token ids, shape (B, S).
        attention_mask: 1 for tokens, 0 for padding, shape (B, S).
        image_grid_thw: Patches of each picture along (time, height, width), shape (pictures, 3), or ``None``.

    Raises:
        ValueError: If the mode is unknown.
    """
    if mode not in get_args(Positions):
        msg = f"positions is {mode!r}; known are {', '.join(map(repr, get_args(Positions)))}."
        raise ValueError(msg)
    if mode == "1d" or image_grid_thw is None:
        return count_positions(attention_mask)
    return grid_positions(model, input_ids, attention_mask, image_grid_thw)


def count_positions(attention_mask: Tensor) -> Tensor:
    """Number the tokens of each row from 0, the same along all three axes; padding gets 1.

    Args:
        attention_mask: 1 for tokens, 0 for padding, shape (B, S).

    Returns:
        ``cumsum(mask) - 1``, shape (3, B, S).
    """
    mask = attention_mask.long()
    counted = (mask.cumsum(dim=-1) - 1).masked_fill(mask == 0, 1)
    return counted.expand(3, -1, -1)


def grid_positions(
    model: Qwen2_5_VLForConditionalGeneration, input_ids: Tensor, attention_mask: Tensor, image_grid_thw: Tensor
) -> Tensor:
    """Number text by counting and pictures by row and column (M-RoPE), shape (3, B, S)."""
    is_image = (input_ids == model.config.image_token_id).int()
    positions, _ = model.model.get_rope_index(
        input_ids, mm_token_type_ids=is_image, image_grid_thw=image_grid_thw, attention_mask=attention_mask
    )
    return positions
