"""Reward ``clip``: the cosine of a picture and its prompt in CLIP's space; and CLIP itself, for rewards that use it.

Legend: B pictures, D CLIP's common width.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unipic2_evals.answers import JudgeId
from unipic2_train.rewards.base import Reward, RewardRequest
from unipic2_train.rewards.pretrained import load_folder, load_strictly

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Clip", "ClipReward"]

BATCH = 32  # pictures in one forward


class Clip:
    """A CLIP model of transformers with its tokenizer and image processor.

    Args:
        source: Folder or hub id.
        revision: Commit of a hub id.
        device: Where it runs; ``cuda`` is this process's GPU.
    """

    def __init__(self, source: str, revision: str | None, device: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        folder, found = load_folder(source, revision)
        self.who, self.device = JudgeId(source, found), device
        self.model: Any = load_strictly(CLIPModel, folder).to(device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            msg = f"{folder} lacks a tokenizer or an image processor: {str(error).splitlines()[0]}"
            raise ValueError(msg) from error
        words = self.model.config.text_config.vocab_size
        if len(self.tokenizer) != words:  # without its files, transformers makes an empty one
            msg = f"{folder} lacks a tokenizer of the model's {words} tokens: it has one of {len(self.tokenizer)}"
            raise ValueError(msg)

    @property
    def scale(self) -> float:
        """The learnt factor of its logits."""
        return float(self.model.logit_scale.exp())

    @torch.inference_mode()
    def pictures(self, pictures: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> unit vectors (B, D)."""
        parts = []
        for part in pictures.split(BATCH):
            pixels = self.processor(images=list(part.numpy()), return_tensors="pt")["pixel_values"]
            pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
            parts.append(self.model.visual_projection(pooled))
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts, cut at CLIP's 77 tokens -> unit vectors (B, D); a text that stands there often is read once."""
        unique = list(dict.fromkeys(texts))
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(unique, padding=True, truncation=True, max_length=length, return_tensors="pt")
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
        ).pooler_output
        places = [unique.index(text) for text in texts]
        return F.normalize(self.model.text_projection(pooled), dim=-1)[places]


class ClipReward(Reward):
    """Cosine of picture and prompt, in [-1, 1]; about 0.2 to 0.35 for pictures that fit.

    Args:
        model: Folder or hub id of a CLIP model, such as openai/clip-vit-large-patch14.
        revision: Commit of a hub id.
        device: Where it runs; ``cuda`` is this process's GPU.
    """

    kinds = ("t2i",)

    def __init__(self, model: str, revision: str | None = None, device: str = "cpu") -> None:
        self.model, self.revision, self.device = model, revision, device

    def prepare(self) -> JudgeId:
        """Load the model and return which it is."""
        return self.clip.who

    @cached_property
    def clip(self) -> Clip:
        """The model."""
        return Clip(self.model, self.revision, self.device)

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        return (self.clip.pictures(request.pictures) * self.clip.texts(request.prompts)).sum(-1).cpu()
