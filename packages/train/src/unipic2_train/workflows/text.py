"""Small text encoders and tokenizers over a grammar: stand-ins for CLIP-L, CLIP-G and T5-XXL.

They are frozen and seeded, never trained: a random transformer keeps word identity and order, which is all that a DiT
needs from prompts over a small vocabulary. They are made by the official classes and saved in the official layout, so
that everything later loads them by the very code that loads the real ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

__all__ = ["TextConfig", "write_text_encoders"]

BRANCH_STRENGTH = 0.1
NEIGHBOURS = (-1, -2, -3, 1)
NEIGHBOUR_BIAS = 10.0
CLIP_WORD_END = "</w>"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"


@dataclass
class TextConfig:
    """Sizes of the small text encoders."""

    clip_width: int = 32
    """Width of each of the two CLIP encoders."""
    t5_width: int = 64
    """Width of T5, which is the DiT's ``joint_attention_dim``; at least twice ``clip_width``."""
    num_layers: int = 2
    """Layers of each CLIP encoder; T5 has one."""
    max_tokens: int = 16
    """Tokens that each encoder reads; longer prompts are cut with a warning."""
    seed: int = 0
    """Seed of the frozen random weights."""


def write_text_encoders(folder: Path, words: Sequence[str], config: TextConfig) -> None:
    """Write ``text_encoder*/`` and ``tokenizer*/`` below ``folder``.

    Args:
        folder: Checkpoint folder in the official layout.
        words: The vocabulary; each word becomes one token.
        config: Sizes.

    Raises:
        ValueError: T5 is too narrow to hold both CLIPs side by side.
    """
    if config.t5_width < 2 * config.clip_width:
        msg = f"t5_width {config.t5_width} must be at least twice clip_width {config.clip_width}"
        raise ValueError(msg)
    clip_tokenizer = _clip_tokenizer(words, config.max_tokens)
    t5_tokenizer = _t5_tokenizer(words, config.max_tokens)
    generator = torch.Generator().manual_seed(config.seed)
    for suffix in ("", "_2"):
        clip_tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        _clip(clip_tokenizer, config, generator).save_pretrained(folder / f"text_encoder{suffix}")
    t5_tokenizer.save_pretrained(folder / "tokenizer_3")
    _t5(t5_tokenizer, config, generator).save_pretrained(folder / "text_encoder_3")


def _clip_tokenizer(words: Sequence[str], max_tokens: int) -> CLIPTokenizer:
    """Byte-pair encoding trained until every word of the vocabulary is one token."""
    trained = Tokenizer(models.BPE(end_of_word_suffix=CLIP_WORD_END))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, end_of_word_suffix=CLIP_WORD_END, show_progress=False
    )
    trained.train_from_iterator(sorted(words), trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*characters, *(character + CLIP_WORD_END for character in characters)]
    vocabulary += [left + right for left, right in merges]
    vocabulary = [*dict.fromkeys(vocabulary), CLIP_START, CLIP_END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=max_tokens,
    )


def _t5_tokenizer(words: Sequence[str], max_tokens: int) -> T5Tokenizer:
    """Unigram pieces: every word whole, and single characters for whatever is not in the vocabulary."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = sorted({character for word in words for character in word} | set(map(chr, range(33, 127))))
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"\N{LOWER ONE EIGHTH BLOCK}{word}", -2.0) for word in sorted(words)]
    taken = {piece for piece, _ in pieces}
    singles = ["\N{LOWER ONE EIGHTH BLOCK}", *letters]
    pieces += [(single, -10.0) for single in singles if single not in taken]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_tokens)


@torch.no_grad()
def _clip(tokenizer: CLIPTokenizer, config: TextConfig, generator: torch.Generator) -> CLIPTextModelWithProjection:
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.clip_width,
            intermediate_size=4 * config.clip_width,
            projection_dim=config.clip_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=2,
            max_position_embeddings=config.max_tokens,
            # Without these the pooled embedding is taken at position 0 and is the same for every prompt.
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _seed(model, generator, last_layer=f"layers.{config.num_layers - 1}.")
    return model.eval()


@torch.no_grad()
def _t5(tokenizer: T5Tokenizer, config: TextConfig, generator: torch.Generator) -> T5EncoderModel:
    """Return a T5 whose heads read a word's neighbours, as those of a trained encoder do.

    Each head looks at one fixed offset (``NEIGHBOURS``) through the relative position bias, so that a noun's embedding
    carries its adjective: "red circle" is not a bag of two words.
    """
    model = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=config.t5_width,
            d_kv=config.t5_width // len(NEIGHBOURS),
            d_ff=2 * config.t5_width,
            num_layers=1,
            num_heads=len(NEIGHBOURS),
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    _seed(model, generator, last_layer="SelfAttention.o.")
    attention = model.encoder.block[0].layer[0].SelfAttention
    attention.q.weight.zero_()  # content decides nothing, offset everything
    attention.relative_attention_bias.weight.zero_()
    for head, offset in enumerate(NEIGHBOURS):
        # T5's buckets: distances backwards first, then forwards from the middle of the table.
        bucket = -offset if offset < 0 else model.config.relative_attention_num_buckets // 2 + offset
        attention.relative_attention_bias.weight[bucket, head] = NEIGHBOUR_BIAS
    return model.eval()


def _seed(model: nn.Module, generator: torch.Generator, last_layer: str = "") -> None:
    """Draw all weights anew; norms stay as they are.

    Embeddings have unit variance, so that words stand far apart, and layers add little to them, so that a word keeps
    its identity in every context. Only ``last_layer`` mixes at full strength: CLIP's pooled embedding comes from behind
    it, its token embeddings from before it; T5's one attention is where its words meet.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        std = 1.0 if "embed" in name or "shared" in name else parameter.shape[1] ** -0.5
        closes_branch = name.endswith(("out_proj.weight", "fc2.weight", ".o.weight", ".wo.weight"))
        if closes_branch and not (last_layer and last_layer in name):
            std *= BRANCH_STRENGTH
        parameter.normal_(0.0, std, generator=generator)
