"""Small text encoders and tokenizers over a grammar: stand-ins for CLIP-L, CLIP-G and T5-XXL.

They start from seeded weights, learn to read the grammar's texts for half a minute (`reading`), and are frozen from
then on. They are made by the official classes and saved in the official layout, so that everything later loads them by
the very code that loads the real ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from unipic2_train.workflows.reading import Encoders, ReadingConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

__all__ = ["TextConfig", "make_text_encoders", "write_text_encoders"]

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
    reading: ReadingConfig | None = field(default_factory=ReadingConfig)
    """How they learn to read; ``null`` leaves them random."""
    seed: int = 0
    """Seed of weights and training."""


def make_text_encoders(words: Sequence[str], config: TextConfig) -> Encoders:
    """Return seeded, untrained encoders with their tokenizers.

    Args:
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
    first, second = (_clip(clip_tokenizer, config, generator) for _ in range(2))
    return Encoders(clip_tokenizer, (first, second), t5_tokenizer, _t5(t5_tokenizer, config, generator))


def write_text_encoders(folder: Path, encoders: Encoders) -> None:
    """Write ``text_encoder*/`` and ``tokenizer*/`` below ``folder``, a checkpoint in the official layout."""
    for suffix, model in zip(("", "_2", "_3"), encoders.models(), strict=True):
        model.save_pretrained(folder / f"text_encoder{suffix}")
    for suffix in ("", "_2"):
        encoders.clip_tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
    encoders.t5_tokenizer.save_pretrained(folder / "tokenizer_3")


def _clip_tokenizer(words: Sequence[str], max_tokens: int) -> CLIPTokenizer:
    """Return byte-pair encoding whose merges make every word of the vocabulary one token."""
    merges = _merges(words)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*characters, *(character + CLIP_WORD_END for character in characters)]
    vocabulary += [left + right for left, right in merges]
    vocabulary = [*dict.fromkeys(vocabulary), CLIP_START, CLIP_END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=max_tokens,
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, the most frequent pair first, until every word is one piece.

    The trainer of ``tokenizers`` breaks ties by the order of a hash table, so that two processes get two vocabularies;
    here the alphabet breaks them.
    """
    pieces = [[*word[:-1], word[-1] + CLIP_WORD_END] for word in sorted(words)]
    merges = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            _merge(word, best)
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> None:
    position = 0
    while position < len(word) - 1:
        if (word[position], word[position + 1]) == pair:
            word[position : position + 2] = ["".join(pair)]
        position += 1


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
