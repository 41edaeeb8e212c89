"""Prompts and pictures to tensors: the tokenizer and the image processor of a VLM's folder.

The stock ``Qwen2_5_VLProcessor`` needs torchvision, which has no CPU build; its two halves do not. Pictures are read by
PIL everywhere, so that a machine with torchvision gives the same pixels.

Prompts for the queries are one user turn without the default system turn: ``Generate an image: {prompt}``, or for an
edit the picture and then the raw instruction (UniPic 2.0's released code). Questions have the stock template.

Legend: B rows, S tokens of a prompt, padding included, P patches of all pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from unipic2_vlm.checkpoint import CheckpointError, resolve_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

__all__ = ["QwenVLProcessor", "Turn", "VlmInputs"]

IMAGE_START, IMAGE_TOKEN, IMAGE_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
TURN = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
GENERATION = "Generate an image: {prompt}"


class Turn(NamedTuple):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Whose it is. Without a system turn at the beginning the stock template writes its own."""
    text: str
    """The words."""
    images: Sequence[Image.Image] = ()
    """Pictures, which come before the words."""


class VlmInputs(NamedTuple):
    """What the VLM reads, one prompt a row."""

    input_ids: Tensor
    """Token ids, shape (B, S)."""
    attention_mask: Tensor
    """1 for tokens, 0 for padding, shape (B, S)."""
    pixel_values: Tensor | None
    """Patches of all pictures, row after row, shape (P, channels * time * height * width), or ``None``."""
    image_grid_thw: Tensor | None
    """Patches of each picture along (time, height, width), shape (pictures, 3), or ``None``."""

    def to(self, device: torch.device | str) -> VlmInputs:
        """Return the tensors on another device."""
        pixels, grid = (None if part is None else part.to(device) for part in (self.pixel_values, self.image_grid_thw))
        return VlmInputs(self.input_ids.to(device), self.attention_mask.to(device), pixels, grid)


class QwenVLProcessor:
    """The tokenizer and the image processor of a Qwen2.5-VL.

    Args:
        tokenizer: Knows the tokens of turns and pictures, and has a chat template.
        image_processor: Knows patches and how many pixels a picture may have.

    Raises:
        CheckpointError: If the tokenizer lacks the image token or a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Qwen2VLImageProcessorPil) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        lacking = [token for token in (IMAGE_START, IMAGE_TOKEN, IMAGE_END) if token not in tokenizer.get_vocab()]
        if lacking:
            msg = f"The tokenizer has no {', '.join(lacking)}: it is not that of a vision-language Qwen2.5."
            raise CheckpointError(msg)
        if not tokenizer.chat_template:
            msg = "The tokenizer has no chat template. Copy tokenizer_config.json or chat_template.jinja to its folder."
            raise CheckpointError(msg)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> QwenVLProcessor:
        """Load the processor of a VLM's folder.

        Args:
            source: Folder of a Qwen2.5-VL, or a hub id.
            revision: Revision of a hub id.

        Raises:
            CheckpointError: If the tokenizer or ``preprocessor_config.json`` is missing or does not fit.
        """
        from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil

        folder = resolve_folder(source, revision=revision)
        for names in (("preprocessor_config.json",), ("tokenizer.json", "vocab.json")):
            if not any((folder / name).is_file() for name in names):
                msg = f"{folder} has no {' or '.join(names)}. Copy or download the whole folder of the VLM."
                raise CheckpointError(msg)
        try:
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            msg = f"The tokenizer or image processor in {folder} can't be loaded: {str(error).splitlines()[0]}"
            raise CheckpointError(msg) from error
        return cls(tokenizer, image_processor)

    @property
    def image_token_id(self) -> int:
        """The token that stands for a part of a picture."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))

    @property
    def pixels_per_token(self) -> int:
        """Edge of the square that one token sees, in px (28 for the released VLM)."""
        return int(self.image_processor.patch_size * self.image_processor.merge_size)

    def picture_size(self, height: int, width: int, multiple: int) -> tuple[int, int]:
        """Return the size at which the VLM sees a picture that the DiT sees at (height, width), in px.

        A token of the VLM covers whole patches of the DiT and never more pixels than there are: the VLM's 28 px are
        the smallest multiple of SD3.5's 16 px that holds them, which is 32 px. Edges are rounded to whole tokens.

        Args:
            height: Height of the DiT's picture.
            width: Its width.
            multiple: Edge of a patch of the DiT in px, VAE factor times patch size (16 for SD3.5).

        Raises:
            ValueError: If this is more pixels than the VLM's image processor allows.
        """
        edge = self.pixels_per_token
        covered = multiple * math.ceil(edge / multiple)
        rows, columns = (max(1, math.floor(length / covered + 0.5)) for length in (height, width))
        limit = int(self.image_processor.size["longest_edge"])
        if rows * columns * edge**2 > limit:
            msg = (
                f"A picture of {width}x{height} px is {columns * edge}x{rows * edge} px for the VLM, too many: its "
                f"preprocessor_config.json allows {limit} pixels. Use a smaller picture."
            )
            raise ValueError(msg)
        return rows * edge, columns * edge

    def generation(self, prompts: Sequence[str]) -> VlmInputs:
        """Return prompts for text-to-image, padded on the right. The empty prompt is a valid one."""
        texts = [TURN.format(content=GENERATION.format(prompt=prompt)) for prompt in prompts]
        return self._inputs(texts, [], side="right")

    def edit(
        self, instructions: Sequence[str], images: Sequence[Image.Image] | Tensor | None, multiple: int
    ) -> VlmInputs:
        """Return prompts for edits, padded on the right.

        Args:
            instructions: One instruction a row. The empty one is valid.
            images: One picture a row as the DiT sees it, or pixels in [-1, 1], shape (B, 3, H, W); ``None`` leaves the
                picture to the DiT alone.
            multiple: Edge of a patch of the DiT in px, VAE factor times patch size.

        Raises:
            ValueError: If there is not one picture a row, or one has too many pixels.
        """
        if images is None:
            return self._inputs([TURN.format(content=text) for text in instructions], [], side="right")
        if len(images) != len(instructions):
            msg = f"{len(images)} pictures for {len(instructions)} instructions: pass one each."
            raise ValueError(msg)
        pictures = [self._resize(each, multiple) for each in _as_pictures(images)]
        content = IMAGE_START + IMAGE_TOKEN + IMAGE_END
        texts = [TURN.format(content=content + text) for text in instructions]
        return self._inputs(texts, pictures, side="right", resize=False)

    def question(self, images: Sequence[Sequence[Image.Image]], questions: Sequence[str]) -> VlmInputs:
        """Return questions in the stock template, pictures first, padded on the left so that answers can follow.

        Args:
            images: Pictures of each row, none, one or several; scaled as the stock processor does.
            questions: One question a row.

        Raises:
            ValueError: If rows do not fit, or a picture is extremely elongated.
        """
        if len(images) != len(questions):
            msg = f"Pictures of {len(images)} rows for {len(questions)} questions: pass a list of pictures for each."
            raise ValueError(msg)
        return self.conversation(
            [[Turn("user", question, pictures)] for pictures, question in zip(images, questions, strict=True)]
        )

    def conversation(self, conversations: Sequence[Sequence[Turn]]) -> VlmInputs:
        """Return conversations in the stock template, padded on the left so that answers can follow.

        Args:
            conversations: The turns of each row, the first one first; pictures are scaled as the stock processor does.

        Raises:
            ValueError: If a row is empty, or a picture is extremely elongated.
        """
        if not all(conversations):
            msg = "One of the conversations has no turn: pass at least a question."
            raise ValueError(msg)
        texts = []
        for turns in conversations:
            messages = [_message(turn) for turn in turns]
            texts.append(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        pictures = [picture for turns in conversations for turn in turns for picture in turn.images]
        return self._inputs(texts, pictures, side="left")

    def _resize(self, picture: Image.Image, multiple: int) -> Image.Image:
        height, width = self.picture_size(picture.height, picture.width, multiple)
        return picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    def _inputs(
        self, texts: list[str], pictures: Sequence[Image.Image], *, side: str, resize: bool = True
    ) -> VlmInputs:
        """Tokenize, with as many image tokens in place of one as the picture has."""
        pixel_values = grid = None
        if pictures:
            patches = self.image_processor(images=list(pictures), do_resize=resize, return_tensors="pt")
            pixel_values, grid = patches["pixel_values"], patches["image_grid_thw"]
            texts = self._expand(texts, grid)
        encoded = self.tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        return VlmInputs(encoded["input_ids"], encoded["attention_mask"], pixel_values, grid)

    def _expand(self, texts: list[str], grid: Tensor) -> list[str]:
        parts = [text.split(IMAGE_TOKEN) for text in texts]
        counts = (grid.prod(dim=-1) // self.image_processor.merge_size**2).tolist()
        places = sum(len(row) - 1 for row in parts)
        if places != len(counts):
            msg = (
                f"The prompts have places for {places} pictures, but there are {len(counts)}. A chat template has to "
                f"write {IMAGE_TOKEN} once a picture, and a prompt of one's own must not."
            )
            raise ValueError(msg)
        tokens = iter(IMAGE_TOKEN * count for count in counts)
        return [row[0] + "".join(next(tokens) + part for part in row[1:]) for row in parts]


def _message(turn: Turn) -> dict[str, Any]:
    """Return a turn as chat templates know it."""
    return {
        "role": turn.role,
        "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}],
    }


def _as_pictures(images: Sequence[Image.Image] | Tensor) -> list[Image.Image]:
    """Return pictures as they are, and pixels in [-1, 1], shape (B, 3, H, W), as pictures."""
    if not isinstance(images, Tensor):
        return list(images)
    if images.ndim != 4 or images.shape[1] != 3:
        msg = f"Pixels have shape (B, 3, H, W) and values in [-1, 1]; these have {tuple(images.shape)}."
        raise ValueError(msg)
    scaled = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return [Image.fromarray(each) for each in scaled.byte().permute(0, 2, 3, 1).cpu().numpy()]
