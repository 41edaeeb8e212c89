"""A small Qwen2.5-VL over a vocabulary, with random weights: where training starts when nothing can be downloaded.

Made by the official classes and saved in the official layout, so that everything later loads it by the very code that
loads the real one. Its tokenizer knows each word of letters as one token, alone and after a space, and anything else by
its bytes. With patches of 4 px, of which 2 x 2 make one token, it sees 16 tokens of a 32 px picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
)

from unipic2_vlm.processor import IMAGE_END, IMAGE_START, IMAGE_TOKEN

__all__ = ["SmallVlmConfig", "write_small_vlm"]

END_OF_TEXT, TURN_START, TURN_END, VIDEO_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_TOKEN, VIDEO_TOKEN)
TEMPLATE_WORDS = ("system", "user", "assistant", "You", "are", "a", "helpful", "Generate", "an", "image")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class SmallVlmConfig:
    """Sizes of a small VLM."""

    width: int = 128
    """Hidden size of the language model."""
    num_layers: int = 4
    """Its layers."""
    num_heads: int = 4
    """Its heads; half as many for keys and values."""
    vision_width: int = 64
    """Hidden size of the vision tower."""
    vision_layers: int = 4
    """Its layers; the last one attends to the whole picture, the others to windows of 4 x 4 tokens."""
    vision_heads: int = 4
    """Its heads."""
    patch_size: int = 4
    """Edge of a patch, in px; 2 x 2 patches make one token."""
    max_edge: int = 512
    """Edge of the largest square picture, in px."""
    max_tokens: int = 4096
    """Tokens that it reads."""
    seed: int = 0
    """Seed of the random weights."""


def write_small_vlm(folder: Path, words: Iterable[str], config: SmallVlmConfig) -> None:
    """Write a small Qwen2.5-VL: weights, tokenizer, image processor and generation settings.

    Args:
        folder: Folder to make.
        words: The vocabulary; each word of letters becomes one token. The words of the prompt templates are added.
        config: Sizes.

    Raises:
        ValueError: If the widths can not be divided as heads and positions need.
    """
    if config.num_heads % 2 or config.width % (8 * config.num_heads):
        msg = f"width {config.width} has to be a multiple of 8 * num_heads, and num_heads {config.num_heads} even."
        raise ValueError(msg)
    if config.vision_width % (4 * config.vision_heads):
        msg = f"vision_width {config.vision_width} has to be a multiple of 4 * vision_heads {config.vision_heads}."
        raise ValueError(msg)
    tokenizer = _tokenizer({*words, *TEMPLATE_WORDS})
    tokenizer.save_pretrained(folder)
    edge = 2 * config.patch_size
    size = {"shortest_edge": edge**2, "longest_edge": config.max_edge**2}
    Qwen2VLImageProcessorPil(patch_size=config.patch_size, merge_size=2, size=size).save_pretrained(folder)
    model_config = _model_config(tokenizer, config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Qwen2_5_VLForConditionalGeneration(model_config)
    ends = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)


def _tokenizer(words: set[str]) -> Qwen2Tokenizer:
    """Byte-pair encoding trained until every word is one token, alone and after a space."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator([space + word for word in sorted(words) for space in ("", " ")], trainer)
    state = json.loads(trained.to_str())["model"]
    vocabulary = dict(state["vocab"])
    for token in SPECIAL_TOKENS:
        vocabulary[token] = len(vocabulary)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in state["merges"]],
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        eos_token=TURN_END,
    )


def _model_config(tokenizer: Qwen2Tokenizer, config: SmallVlmConfig) -> Qwen2_5_VLConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    half = config.width // config.num_heads // 2
    time = half // 4  # a quarter, and the rest for rows and columns, as in the released model
    rows = (half - time) // 2
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads // 2,
        "max_position_embeddings": config.max_tokens,
        # The default, 0.02, is for widths of thousands; with it a narrow model starts out deaf to its input.
        "initializer_range": config.width**-0.5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [time, rows, half - time - rows],
        },
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END_OF_TEXT],
        "vision_start_token_id": ids[IMAGE_START],
        "vision_end_token_id": ids[IMAGE_END],
    }
    vision = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_heads": config.vision_heads,
        "out_hidden_size": config.width,
        "patch_size": config.patch_size,
        "spatial_merge_size": 2,
        "window_size": 8 * config.patch_size,
        "fullatt_block_indexes": [config.vision_layers - 1],
        "initializer_range": config.vision_width**-0.5,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids[VIDEO_TOKEN],
        vision_start_token_id=ids[IMAGE_START],
        vision_end_token_id=ids[IMAGE_END],
        tie_word_embeddings=True,
    )
