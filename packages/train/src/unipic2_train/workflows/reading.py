"""Teach small text encoders to read, as downloaded ones learnt long before.

A random transformer keeps which words it saw, but not who is red and who stands left. So the encoders are trained on
texts of the training split, before they are frozen: from each encoder a linear layer has to tell every fact that a text
states (`unipic2_data.shapes.grammar.FACTS`). A CLIP is read at its pooled embedding; T5 at its tokens, of which every
fact has its own attention-weighted mean. Nothing here looks at a picture.

Legend: B texts, L tokens, W width of T5, F facts, V_f possible values of fact f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        T5EncoderModel,
        T5Tokenizer,
    )

    from unipic2_data.shapes.grammar import Reading

__all__ = ["Encoders", "ReadingConfig", "teach"]

UNSEEN = 1000
"""Texts at the end of the examples that are kept from training, to say how well the encoders read."""

WARMUP_STEPS = 50


@dataclass
class ReadingConfig:
    """How long and on what the text encoders are trained."""

    steps: int = 500
    """Optimiser steps."""
    texts: int = 12_000
    """Texts to learn from."""
    batch_size: int = 128
    """Texts of a step."""
    learning_rate: float = 6e-3
    """Peak learning rate of AdamW, falling linearly to zero."""


@dataclass
class Encoders:
    """The text encoders of a checkpoint, both CLIPs with the same tokenizer."""

    clip_tokenizer: CLIPTokenizer
    clips: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]
    t5_tokenizer: T5Tokenizer
    t5: T5EncoderModel

    def models(self) -> tuple[PreTrainedModel, ...]:
        """Return the three models."""
        return (*self.clips, self.t5)


def teach(
    encoders: Encoders, readings: Sequence[Reading], num_values: Sequence[int], config: ReadingConfig, seed: int
) -> tuple[float, ...]:
    """Train the encoders, in place.

    Afterwards the pooled embeddings have unit variance, like those of the encoders that they stand in for.

    Args:
        encoders: CLIP, CLIP and T5.
        readings: Texts and what they say; the last ``UNSEEN`` are kept from training.
        num_values: Possible values of each fact, V_f.
        config: How long.
        seed: Seed of readout weights and order.

    Returns:
        Share of the unseen texts of which each encoder tells every fact.
    """
    texts, facts = [reading.text for reading in readings], torch.tensor([reading.facts for reading in readings])
    clip_ids, _ = _tokens(encoders.clip_tokenizer, texts)
    t5_ids, t5_mask = _tokens(encoders.t5_tokenizer, texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pooled_facts = [nn.Linear(clip.config.projection_dim, sum(num_values)) for clip in encoders.clips]
        token_facts = _TokenFacts(encoders.t5.config.d_model, num_values)

    def losses_and_right(rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        pooled = (clip(clip_ids[rows]).text_embeds for clip in encoders.clips)
        tokens = encoders.t5(t5_ids[rows]).last_hidden_state  # unmasked, as the DiT reads it
        told = [head(each).split(list(num_values), dim=1) for head, each in zip(pooled_facts, pooled, strict=True)]
        told.append(token_facts(tokens, t5_mask[rows]))
        pairs = [list(zip(each, facts[rows].unbind(1), strict=True)) for each in told]
        loss = torch.stack([F.cross_entropy(logits, value) for each in pairs for logits, value in each]).sum()
        right = [torch.stack([logits.argmax(1) == value for logits, value in each]).all(0) for each in pairs]
        return loss, right

    trained = nn.ModuleList([*encoders.models(), *pooled_facts, token_facts]).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    order = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / config.steps)
        rows = torch.randint(len(texts) - UNSEEN, (config.batch_size,), generator=order)
        loss, _ = losses_and_right(rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
    trained.requires_grad_(False)
    unseen = torch.arange(len(texts) - UNSEEN, len(texts))
    _, right = losses_and_right(unseen)
    for clip in encoders.clips:
        clip.text_projection.weight /= clip(clip_ids[unseen]).text_embeds.std()
    return tuple(float(each.float().mean()) for each in right)


class _TokenFacts(nn.Module):
    """Tell every fact from its own attention-weighted mean of the tokens."""

    def __init__(self, width: int, num_values: Sequence[int]) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(num_values), width) * width**-0.5)
        self.values = nn.ModuleList(nn.Linear(width, number) for number in num_values)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Map tokens (B, L, W) and their mask (B, L) to the logits of every fact, F tensors of shape (B, V_f)."""
        attention = (tokens @ self.queries.T).masked_fill(mask[..., None] == 0, float("-inf")).softmax(1)
        means = attention.transpose(1, 2) @ tokens
        return tuple(layer(means[:, fact]) for fact, layer in enumerate(self.values))


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both (B, L)."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids, encoded.attention_mask
