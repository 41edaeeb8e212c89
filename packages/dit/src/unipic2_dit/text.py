"""Prompts to conditioning with SD3's text encoders: CLIP-L, CLIP-G and, if it is there, T5.

Gives what ``diffusers.StableDiffusion3Pipeline.encode_prompt`` gives.

Legend: B prompts, L_clip/L_t5 token lengths, L = L_clip + L_t5.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unipic2_dit.conditioning import Conditioning

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedTokenizerBase,
        T5EncoderModel,
        T5TokenizerFast,
    )

    from unipic2_dit.quantization import Quantization

__all__ = ["DEFAULT_T5_LENGTH", "TextConditioner"]

DEFAULT_T5_LENGTH = 256
"""Tokens of T5 (diffusers' default), unless its tokenizer's own limit is lower."""

logger = logging.getLogger(__name__)


@dataclass
class TextConditioner:
    """The text encoders of a checkpoint and their tokenizers.

    CLIP's penultimate hidden states stand side by side, padded with zeros to the transformer's width; T5's last hidden
    states follow them along the sequence. The pooled embedding is CLIP-L's beside CLIP-G's. Without T5 its tokens are
    zeros, as in SD3's training.

    Args:
        text_encoder: CLIP-L.
        tokenizer: Its tokenizer, whose ``model_max_length`` is the length of both CLIPs.
        text_encoder_2: CLIP-G.
        tokenizer_2: Its tokenizer.
        text_encoder_3: T5's encoder, or ``None``.
        tokenizer_3: Its tokenizer, or ``None``.
        joint_attention_dim: Width of the prompt embeddings, from the transformer's config.
        t5_length: Tokens of T5; by default 256, or the tokenizer's ``model_max_length`` if that is less.
    """

    text_encoder: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer
    text_encoder_3: T5EncoderModel | None
    tokenizer_3: T5TokenizerFast | None
    joint_attention_dim: int
    t5_length: int | None = None

    def __post_init__(self) -> None:
        if self.t5_length is None:
            limit = DEFAULT_T5_LENGTH if self.tokenizer_3 is None else self.tokenizer_3.model_max_length
            self.t5_length = min(DEFAULT_T5_LENGTH, limit)
        for encoder in self.encoders():
            encoder.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        use_t5: bool = True,
        t5_quantization: Quantization | None = None,
    ) -> TextConditioner:
        """Load the text encoders of a checkpoint folder, strictly.

        Args:
            source: Folder in the official layout, or a hub id.
            revision: Revision of a hub id.
            dtype: Dtype of the encoders; by default float32.
            device: Where they go.
            use_t5: Load T5 if the folder has it. It is the largest encoder by far.
            t5_quantization: Keep its matrices in 8 or 4 bits.

        Raises:
            CheckpointError: If something is missing or does not fit, or T5 can't be quantised.
        """
        from unipic2_dit import checkpoint

        folder = checkpoint.resolve_folder(source, revision=revision)
        parts = {
            name: checkpoint.load_component(folder, name, dtype=dtype, device=device)
            for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        }
        has_t5 = use_t5 and (folder / "text_encoder_3").is_dir()
        for name in ("text_encoder_3", "tokenizer_3"):
            parts[name] = (
                checkpoint.load_component(folder, name, dtype=dtype, device=device, quantization=t5_quantization)
                if has_t5
                else None
            )
        width = checkpoint.read_config(folder, "transformer")["joint_attention_dim"]
        return cls(**parts, joint_attention_dim=width)

    @property
    def num_tokens(self) -> int:
        """Length L of the prompt embeddings."""
        assert self.t5_length is not None
        return self._clip_length + self.t5_length

    def encoders(self) -> Iterator[nn.Module]:
        """Yield the encoders that are there."""
        yield from (each for each in (self.text_encoder, self.text_encoder_2, self.text_encoder_3) if each is not None)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextConditioner:
        """Move the encoders, in place."""
        for encoder in self.encoders():
            encoder.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Conditioning:
        """Encode prompts. The empty prompt is a valid one: guidance leads away from it.

        Args:
            prompts: One prompt a row. What exceeds an encoder's length is cut, with a warning.
            device: Where the encoders run and the result is; by default where they are.
            dtype: Dtype of the result; by default that of the encoders.

        Returns:
            The conditioning, B rows of L tokens.
        """
        prompts = list(prompts)
        # Under offloading an encoder is elsewhere, or nowhere, until its forward runs: its own device says nothing.
        device = torch.device(device) if device is not None else self.text_encoder.device
        embeds_1, pooled_1 = self._encode_clip(self.text_encoder, self.tokenizer, prompts, device)
        embeds_2, pooled_2 = self._encode_clip(self.text_encoder_2, self.tokenizer_2, prompts, device)
        clip_embeds = torch.cat((embeds_1, embeds_2), dim=-1)
        clip_embeds = F.pad(clip_embeds, (0, self.joint_attention_dim - clip_embeds.shape[-1]))
        prompt_embeds = torch.cat((clip_embeds, self._encode_t5(prompts, like=clip_embeds)), dim=1)
        return Conditioning(prompt_embeds, torch.cat((pooled_1, pooled_2), dim=-1)).to(device, dtype)

    @property
    def _clip_length(self) -> int:
        return int(self.tokenizer.model_max_length)

    def _encode_clip(
        self, encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, prompts: list[str], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return penultimate hidden states (B, L_clip, D_clip) and the projected pooled state (B, D_pooled)."""
        ids = _tokenize(tokenizer, prompts, self._clip_length)
        output = encoder(ids.to(device), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def _encode_t5(self, prompts: list[str], like: Tensor) -> Tensor:
        """Return T5's hidden states (B, L_t5, D_joint), zeros without T5."""
        assert self.t5_length is not None
        if self.text_encoder_3 is None or self.tokenizer_3 is None:
            return like.new_zeros(len(prompts), self.t5_length, self.joint_attention_dim)
        ids = _tokenize(self.tokenizer_3, prompts, self.t5_length)
        return self.text_encoder_3(ids.to(like.device))[0].to(like)


def _tokenize(tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int) -> Tensor:
    """Return token ids (B, length), padded, and cut with a warning that says what was lost."""
    encoded = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    # Only rows without any padding can have been cut.
    for row in encoded.attention_mask.all(dim=1).nonzero().squeeze(1).tolist():
        whole = tokenizer(prompts[row]).input_ids
        if len(whole) > length:
            lost = tokenizer.decode(whole[length - 1 : -1])
            logger.warning("A prompt is longer than the %d tokens its encoder reads; ignored: %r", length, lost)
    return encoded.input_ids
