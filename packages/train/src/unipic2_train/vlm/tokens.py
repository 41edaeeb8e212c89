"""Lessons and questions as what a Qwen2.5-VL reads: tokens, the answers' places, and patches of the pictures.

Legend: B rows, S tokens of a row, padding included, P patches of all pictures, H/W height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unipic2_vlm.processor import IMAGE_END, IMAGE_START, IMAGE_TOKEN, TURN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

    from unipic2_vlm.processor import QwenVLProcessor

__all__ = ["IGNORED", "LessonInputs", "Segment", "lesson_inputs", "patches", "segments"]

IGNORED = -100
"""Label of a token that is no part of an answer."""
TURN_END = "<|im_end|>"
Segment = tuple[str, bool]
"""A piece of a conversation, and whether it is an answer to learn."""


@dataclass
class LessonInputs:
    """What the model reads and should say."""

    input_ids: Tensor
    """Token ids, padded on the right, (B, S)."""
    attention_mask: Tensor
    """1 for tokens, 0 for padding, (B, S)."""
    labels: Tensor
    """The token itself where it belongs to an answer or ends one, else ``IGNORED``, (B, S)."""
    pixel_values: Tensor | None
    """Patches of the pictures, row after row, (P, channels * time * height * width)."""
    image_grid_thw: Tensor | None
    """Patches of each picture along (time, height, width), (pictures, 3)."""

    def to(self, device: torch.device | str) -> LessonInputs:
        """Return the tensors on another device."""
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device) for name, value in vars(self).items()
        }
        return LessonInputs(**moved)


def segments(
    processor: QwenVLProcessor, kind: str, turns: Sequence[tuple[str, str]], image_tokens: int
) -> list[Segment]:
    """Return a conversation in the template of its kind, cut where answers begin and end.

    Args:
        processor: Knows the chat template.
        kind: "talk" has the stock template; "edit" and "reading" have those of the queries' prompts.
        turns: What is said, and the answer.
        image_tokens: Tokens of the picture; 0 = no picture.
    """
    picture = IMAGE_START + IMAGE_TOKEN * image_tokens + IMAGE_END if image_tokens else ""
    if kind != "talk":
        ((said, answer),) = turns
        return [(TURN.format(content=picture + said), False), (answer + TURN_END, True)]
    content = [{"type": "image"}, {"type": "text", "text": turns[0][0]}] if picture else turns[0][0]
    first = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    found = [(first.replace(IMAGE_START + IMAGE_TOKEN + IMAGE_END, picture), False), (turns[0][1] + TURN_END, True)]
    for said, answer in turns[1:]:
        found += [("\n" + TURN.format(content=said), False), (answer + TURN_END, True)]
    return found


def lesson_inputs(
    processor: QwenVLProcessor, rows: Sequence[Sequence[Segment]], pictures: Tensor | None
) -> LessonInputs:
    """Tokenize conversations, the answers apart, so that an answer has the tokens that the model would write.

    Args:
        processor: Of the model.
        rows: Segments of each row.
        pictures: Pictures of the rows that have one, in their order, uint8 (N, H, W, 3).
    """
    tokenizer: PreTrainedTokenizerBase = processor.tokenizer
    texts = list(dict.fromkeys(text for row in rows for text, _ in row))
    ids = dict(zip(texts, tokenizer(texts)["input_ids"], strict=True))
    length = max(sum(len(ids[text]) for text, _ in row) for row in rows)
    tokens = torch.full((len(rows), length), int(tokenizer.pad_token_id))
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
    for number, row in enumerate(rows):
        place = 0
        for text, answer in row:
            piece = torch.tensor(ids[text])
            there = slice(place, place + len(piece))
            tokens[number, there], mask[number, there] = piece, 1
            if answer:
                labels[number, there] = piece
            place = there.stop
    if pictures is None or not len(pictures):
        return LessonInputs(tokens, mask, labels, None, None)
    pixel_values, grid = patches(pictures, processor.image_processor)
    return LessonInputs(tokens, mask, labels, pixel_values, grid)


def patches(pictures: Tensor, image_processor: Qwen2VLImageProcessorPil) -> tuple[Tensor, Tensor]:
    """Return what the image processor makes of pictures whose size it would leave alone, all at once.

    Args:
        pictures: uint8 (N, H, W, 3); H and W are multiples of a token's edge.
        image_processor: Says how large patches are and how values are scaled.

    Returns:
        Patches (P, channels * time * height * width) and grid (N, 3).
    """
    number, height, width, channels = pictures.shape
    patch, merge, time = image_processor.patch_size, image_processor.merge_size, image_processor.temporal_patch_size
    rows, columns = height // patch, width // patch
    mean, std = (torch.tensor(getattr(image_processor, name)) for name in ("image_mean", "image_std"))
    values = (pictures.float() * image_processor.rescale_factor - mean) / std
    blocks = values.view(number, rows // merge, merge, patch, columns // merge, merge, patch, channels)
    blocks = blocks.permute(0, 1, 4, 2, 5, 7, 3, 6)  # (N, rows, columns, in token: row, column, channel, y, x)
    blocks = blocks.unsqueeze(6).expand(*blocks.shape[:6], time, patch, patch)
    grid = torch.tensor([[1, rows, columns]]).expand(number, 3)
    return blocks.reshape(number * rows * columns, -1), grid.contiguous()
